"""Slots when things break: an error or ``kill -9`` at every step of making and removing leaves nothing.

Needs root, network and mount namespaces, nftables, ``/dev/net/tun``. Leaves nothing: see ``network_lab``.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pandastackd.errors import HostFailure
from pandastackd.network import namespace
from tests.vm.network_lab import in_lab, make_pool, traces

pytestmark = pytest.mark.needs("root", "tun", "nft")

MAKING = (
    "make namespace",
    "make taps",
    "apply policy",
    "name namespace",
    "make veth pair",
    "address the slot",
    "address the host's end",
    "done",
)
REMOVING = ("remove veth pair", "remove namespace", "removed")

# Runs as a process of its own, in the lab's namespaces: makes and removes one slot, and dies at a step.
VICTIM = """
import os, signal, sys
from ipaddress import IPv4Network
from pandastackd.network import namespace
from pandastackd.network.addresses import AddressPlan
from pandastackd.network.links import SlotMaker
from pandastackd.network.policy import Policy

network = IPv4Network("10.213.0.0/16")
seen = []
def step(name):
    seen.append(name)
    if name == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGKILL)

namespace.ensure_directory()
maker = SlotMaker(AddressPlan(network), Policy(network, ()), uid_base=1_950_000_000, on_step=step)
namespace.run_in_thread(lambda: maker.make(5))
namespace.run_in_thread(lambda: maker.remove(5))
print(",".join(seen))
"""


def run_victim(step: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", VICTIM, step], capture_output=True, text=True, check=False, timeout=60
    )


@in_lab
async def test_the_steps_are_those_tested_here() -> None:
    done = run_victim("none")
    assert done.stdout.strip().split(",") == [*MAKING, *REMOVING], done.stderr
    assert traces() == set()


@pytest.mark.parametrize("step", [*MAKING, *REMOVING])
def test_killed_at_a_step(step: str) -> None:
    @in_lab
    async def scenario() -> None:
        assert run_victim(step).returncode == -9
        pool = make_pool(count=6)
        await pool.start()
        assert traces() == set()
        numbers = {(await pool.acquire()).number for _ in range(6)}
        assert numbers == set(range(6))  # the number is of use again

    scenario()


@pytest.mark.parametrize("step", MAKING)
def test_an_error_at_a_step(step: str) -> None:
    @in_lab
    async def scenario() -> None:
        broken = True

        def fail(name: str) -> None:
            if broken and name == step:
                raise OSError(errno.ENOMEM, "out of memory")

        pool = make_pool(count=1, on_step=fail)
        await pool.start()
        with pytest.raises(HostFailure, match="network slot 0 could not be made: out of memory"):
            await pool.acquire()
        assert traces() == set()
        assert pool.used == 0
        broken = False
        slot = await pool.acquire()
        assert namespace.is_namespace(slot.netns)

    scenario()


@in_lab
async def test_an_error_while_removing_is_tried_again() -> None:
    failures = 1

    def fail(name: str) -> None:
        nonlocal failures
        if name == "remove namespace" and failures:
            failures -= 1
            raise OSError(errno.EBUSY, "busy")

    pool = make_pool(count=1, on_step=fail)
    await pool.start()
    await pool.release(await pool.acquire())
    await pool.settle()
    assert traces() == set()
    await pool.acquire()


@in_lab
async def test_no_slot_without_nft() -> None:
    before = os.environ["PATH"]
    os.environ["PATH"] = "/nonexistent"
    try:
        with pytest.raises(HostFailure, match="install the package nftables"):
            await make_pool().start()
    finally:
        os.environ["PATH"] = before
    assert traces() == set()
    await make_pool().start()  # the failed start let go of the lock


@in_lab
async def test_nothing_is_left_in_memory_either() -> None:
    pool = make_pool(ready=1)
    await pool.start()
    await pool.release(await pool.acquire())
    await pool.settle()
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        await pool.release(await pool.acquire())
        await pool.settle()
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors + 1
