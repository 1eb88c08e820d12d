"""Slots and their pool in the kernel: made, handed out, recycled, adopted, removed.

Needs root, network and mount namespaces, nftables, ``/dev/net/tun``. Leaves nothing: see ``network_lab``.
"""

from __future__ import annotations

import asyncio
import os
import socket
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from pandastackd.domain import Egress
from pandastackd.errors import Conflict, GuestUnreachable, NoCapacity, NotFound
from pandastackd.network import Slot, SlotPool, namespace
from pandastackd.network.addresses import AddressPlan
from pandastackd.network.taps import TUN_DEVICE, attach
from tests.vm.network_lab import UID_BASE, Guest, Internet, add_link, in_lab, listener, make_pool, traces

pytestmark = pytest.mark.needs("root", "tun", "nft")


def identity(slot: Slot) -> int:
    """Which namespace it really is."""
    return slot.netns.stat().st_ino


@in_lab
async def test_slots_made_ahead_are_handed_out_and_made_again() -> None:
    pool = make_pool(ready=2)
    await pool.start()
    await pool.settle()
    assert (pool.ready, pool.used) == (2, 0)
    slot = await pool.acquire()
    assert namespace.is_namespace(slot.netns)
    assert slot.uid == UID_BASE + slot.number
    await pool.settle()
    assert (pool.ready, pool.used) == (2, 1)
    await pool.release(slot)
    await pool.close()
    assert traces() == set()


@in_lab
async def test_ten_at_once_get_ten_different_slots() -> None:
    pool = make_pool(ready=3)
    await pool.start()
    slots = await asyncio.gather(*(pool.acquire() for _ in range(10)))
    assert len({slot.number for slot in slots}) == len({identity(slot) for slot in slots}) == 10
    assert pool.used == 10
    for slot in slots:
        await pool.release(slot)
        await pool.release(slot)  # idempotent
    await pool.close()
    assert traces() == set()


@in_lab
async def test_exhaustion_is_said_and_passes() -> None:
    pool = make_pool(count=2)
    await pool.start()
    first, _ = await pool.acquire(), await pool.acquire()
    with pytest.raises(NoCapacity, match=r"all 2 network slots of 10\.213\.0\.0/16"):
        await pool.acquire()
    before = identity(first)
    await pool.release(first)
    with pytest.raises(NoCapacity) as caught:
        await pool.acquire()
    assert caught.value.retry_after_seconds is not None
    await pool.settle()
    again = await pool.acquire()
    assert again.number == first.number
    assert identity(again) != before


@in_lab
async def test_two_for_the_last_slot() -> None:
    pool = make_pool(count=1)
    await pool.start()
    outcomes = await asyncio.gather(pool.acquire(), pool.acquire(), return_exceptions=True)
    assert sorted(type(one).__name__ for one in outcomes) == ["NoCapacity", "Slot"]


@in_lab
async def test_the_number_unused_for_longest_comes_next() -> None:
    pool = make_pool(count=4)
    await pool.start()
    slots = [await pool.acquire() for _ in range(4)]
    for index in (2, 0, 3):
        await pool.release(slots[index])
        await pool.settle()
    assert [(await pool.acquire()).number for _ in range(3)] == [2, 0, 3]


@in_lab
async def test_a_cancelled_acquire_leaks_nothing() -> None:
    pool = make_pool(count=1)
    await pool.start()
    task = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0.002)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await pool.settle()
    assert pool.used == 0
    assert (await pool.acquire()).number == 0


@in_lab
async def test_taps_belong_to_the_slots_user_only() -> None:
    pool = make_pool()
    await pool.start()
    slot = await pool.acquire()
    await pool.acquire()

    def attach_as(uid: int) -> bool:
        def try_it() -> int:
            descriptor = os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC)
            child = os.fork()  # in the slot's namespace, as its thread is
            if child == 0:
                try:
                    os.setgroups([])
                    os.setresgid(uid, uid, uid)
                    os.setresuid(uid, uid, uid)
                    attach(descriptor, slot.data_tap)
                    os._exit(0)
                finally:
                    os._exit(1)
            os.close(descriptor)
            return os.waitpid(child, 0)[1]

        return namespace.run_in(slot.netns, try_it) == 0

    assert attach_as(slot.uid)
    assert not attach_as(slot.uid + 1)


@in_lab
async def test_connect_reaches_the_guest_and_says_why_not() -> None:
    pool = make_pool()
    await pool.start()
    slot = await pool.acquire()
    here = Path("/proc/thread-self/ns/net").readlink()
    with pytest.raises(GuestUnreachable, match="did not answer"):
        await slot.connect(49984, timeout_seconds=0.1)
    with Guest(slot) as guest:
        with pytest.raises(GuestUnreachable, match="refused"):
            await slot.connect(49984)
        listening = guest.run(lambda: listener(49984))
        with await slot.connect(49984) as connection:
            assert connection.getpeername() == ("169.254.77.2", 49984)
            assert connection.getblocking() is False
            accepted, caller = await asyncio.get_running_loop().sock_accept(listening)
            assert caller[0] == "169.254.77.1"
            await asyncio.get_running_loop().sock_sendall(connection, b"ping")
            assert await asyncio.get_running_loop().sock_recv(accepted, 16) == b"ping"
            accepted.close()
        listening.close()
    await pool.release(slot)
    await pool.settle()
    with pytest.raises(GuestUnreachable, match="gone"):
        await slot.connect(49984)
    assert Path("/proc/thread-self/ns/net").readlink() == here


@in_lab
async def test_a_failing_function_leaves_no_thread_elsewhere() -> None:
    pool = make_pool()
    await pool.start()
    slot = await pool.acquire()
    here = Path("/proc/thread-self/ns/net").readlink()

    def fail() -> None:
        assert Path("/proc/thread-self/ns/net").readlink() != here
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        await namespace.open_in(slot.netns, fail)
    await asyncio.sleep(0.05)
    spaces = {(task / "ns/net").readlink() for task in Path("/proc/self/task").iterdir()}
    assert Path(f"net:[{identity(slot)}]") not in spaces


@in_lab
async def test_a_new_agent_adopts_what_is_in_use_and_removes_the_rest() -> None:
    async with Internet():
        first = make_pool(ready=2)
        await first.start()
        kept, lost = await first.acquire(), await first.acquire()
        await first.settle()
        with Guest(kept) as guest:
            assert await guest.fetch("203.0.113.2")
            # The first agent dies without a word: only its lock goes.
            first._lock.release()
            second = make_pool()
            assert await second.start(adopt={kept.number: Egress()}) == {kept.number}
            assert traces() == {kept.name, f"psv{kept.number}"}
            assert second.slot(kept.number) == kept
            assert await guest.fetch("203.0.113.2")
            assert await guest.fetch("10.9.9.9", patience=0.3) is None
        with pytest.raises(NotFound):
            second.slot(lost.number)
        assert (await second.acquire()).number != kept.number
        await second.release(second.slot(kept.number))
        await second.close()


@in_lab
async def test_adopting_what_a_reboot_took_away() -> None:
    pool = make_pool()
    assert await pool.start(adopt={3: Egress()}) == frozenset()
    assert pool.used == 1
    await pool.release(pool.slot(3))
    await pool.settle()
    assert pool.used == 0


@in_lab
async def test_close_leaves_what_is_in_use_with_its_policy() -> None:
    async with Internet():
        pool = make_pool(ready=1)
        await pool.start()
        slot = await pool.acquire()
        with Guest(slot) as guest:
            await pool.close()
            await pool.close()
            assert traces() == {slot.name, f"psv{slot.number}"}
            assert await guest.fetch("203.0.113.2")
            assert await guest.fetch("203.0.113.1", 80, patience=0.3) is None


@in_lab
async def test_foreign_names_survive_a_start() -> None:
    namespace.ensure_directory()
    foreign = namespace.NETNS_DIR / "ps-mine"
    foreign.touch()
    stale = namespace.NETNS_DIR / "ps-12"
    stale.touch()
    add_link("psvpn")
    add_link("psv7")
    pool = make_pool()
    await pool.start()
    assert traces() == {"ps-mine", "psvpn", "psvpn-far"}
    assert "psv7-far" not in [name for _, name in socket.if_nameindex()]


@in_lab
async def test_one_agent_a_host() -> None:
    pool = make_pool()
    await pool.start()
    slot = await pool.acquire()
    with pytest.raises(Conflict, match=f"pid {os.getpid()}"):
        await make_pool().start()
    assert namespace.is_namespace(slot.netns)
    await pool.close()
    other = make_pool()
    await other.start(adopt={slot.number: Egress()})


@in_lab
async def test_a_network_in_use_is_refused_by_name() -> None:
    # A new namespace starts as the host's own is, and a server that ran before has switched it on there.
    Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
    add_link("corp0", "10.213.9.1", 24)
    with pytest.raises(Conflict, match=r"10\.213\.0\.0/16.*10\.213\.9.*corp0.*PANDASTACK_NETWORK"):
        await make_pool().start()
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "0"
    network = IPv4Network("10.214.0.0/16")
    plan = make_pool()
    other = SlotPool(AddressPlan(network), plan._rules, uid_base=UID_BASE, ready=0)
    await other.start()
    await other.close()
