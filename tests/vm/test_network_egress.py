"""What a sandbox's own egress adds to the default policy, proved with packets.

Needs root, network and mount namespaces, nftables, ``/dev/net/tun``. Leaves nothing: see ``network_lab``.
"""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from pandastackd.domain import Egress
from pandastackd.errors import HostFailure
from pandastackd.network import namespace
from tests.vm.network_lab import (
    HOST_ADDRESS,
    PUBLIC,
    RESOLVERS,
    Guest,
    fetch,
    in_lab,
    listener,
    make_pool,
    world,
)

pytestmark = pytest.mark.needs("root", "tun", "nft")

OTHER = RESOLVERS[1]
"""Another public address that answers on port 80."""
NAMES = "10.200.0.1"
"""What guests ask for names."""
SOON = 0.7
EVERYTHING = ("0.0.0.0/0",)


@in_lab
async def test_what_is_denied_is_not_reached_and_the_rest_is() -> None:
    async with world() as (_, pool, slot):
        await pool.restrict(slot, Egress(deny=(f"{OTHER}/32", "10.0.0.0/8")))
        with Guest(slot) as guest:
            assert await guest.fetch(PUBLIC) == HOST_ADDRESS
            assert await guest.fetch(OTHER, patience=SOON) is None
            assert await guest.ask(OTHER, patience=SOON) is None
            assert await guest.ask(NAMES), (
                "denying a range that holds the resolver's inner address denies no names"
            )


@in_lab
async def test_a_program_learns_at_once_that_it_is_denied() -> None:
    async with world() as (_, pool, slot):
        await pool.restrict(slot, Egress(deny=EVERYTHING))
        with Guest(slot) as guest:
            flow = guest.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            async with asyncio.timeout(8):
                with pytest.raises(OSError, match=PUBLIC) as told:
                    await asyncio.get_running_loop().sock_connect(flow, (PUBLIC, 80))
            assert told.value.errno == errno.EHOSTUNREACH
            flow.close()


@in_lab
async def test_a_program_learns_at_once_that_it_has_no_names() -> None:
    async with world() as (internet, pool, slot):
        await pool.restrict(slot, Egress(deny=EVERYTHING))
        with Guest(slot) as guest:
            internet.seen.clear()
            asked = guest.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
            asked.connect((NAMES, 53))
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(8):
                await loop.sock_sendall(asked, b"a name?")
                with pytest.raises(OSError, match="No route to host"):
                    await loop.sock_recv(asked, 100)
            asked.close()
            assert internet.seen == []


@in_lab
async def test_allowing_wins_over_denying_and_names_go_with_everything() -> None:
    async with world() as (internet, pool, slot):
        await pool.restrict(slot, Egress(allow=(f"{PUBLIC}/32",), deny=EVERYTHING))
        with Guest(slot) as guest:
            assert await guest.fetch(PUBLIC) == HOST_ADDRESS
            internet.seen.clear()
            assert await guest.fetch(OTHER, patience=SOON) is None
            assert await guest.ask(NAMES, patience=SOON) is None
            assert internet.seen == []


@in_lab
async def test_what_is_private_stays_closed_whatever_is_allowed_but_for_the_operators_word() -> None:
    opened, closed = "10.9.9.9", "172.16.5.5"
    async with world(openable=["10.9.9.0/24"]) as (internet, pool, slot):
        assert await fetch(None, opened)
        assert await fetch(None, closed)
        with Guest(slot) as guest:
            internet.seen.clear()
            assert await guest.fetch(opened, patience=SOON) is None, (
                "opened to those that ask, and nobody did"
            )
            await pool.restrict(slot, Egress(allow=("0.0.0.0/0",)))
            assert await guest.fetch(closed, patience=SOON) is None
            assert await guest.fetch("169.254.169.254", patience=SOON) is None
            assert internet.seen == []
            assert await guest.fetch(opened)
            await pool.restrict(slot, Egress(allow=(f"{opened}/32",), deny=EVERYTHING))
            assert await guest.fetch(opened)
            assert await guest.fetch(PUBLIC, patience=SOON) is None


@in_lab
async def test_the_host_stays_closed_even_in_an_opened_range() -> None:
    async with world(openable=["203.0.113.0/24", "10.213.0.0/16"]) as (_, pool, slot):
        served = listener(8080)
        other = await pool.acquire()
        await pool.restrict(slot, Egress(allow=("0.0.0.0/0",)))
        with Guest(slot) as guest:
            for address in (HOST_ADDRESS, str(slot.host_ip), str(other.host_ip), str(other.uplink_ip)):
                assert await guest.fetch(address, 8080, patience=SOON) is None
        served.close()


@in_lab
async def test_a_change_cuts_the_flows_that_it_forbids_and_no_others() -> None:
    async with world() as (internet, pool, slot):
        heard: list[bytes] = []

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(100):
                heard.append(data)
                writer.write(data)

        server = await asyncio.start_server(echo, sock=namespace.run_in(internet.path, lambda: listener(7)))
        internet.servers.append(server)
        loop = asyncio.get_running_loop()
        with Guest(slot) as guest:
            flows = [
                guest.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
                for _ in range(2)
            ]

            async def said(flow: socket.socket, word: bytes) -> bool:
                await loop.sock_sendall(flow, word)
                try:
                    async with asyncio.timeout(SOON):
                        return await loop.sock_recv(flow, 100) == word
                except TimeoutError:
                    return False

            for flow, address in zip(flows, (PUBLIC, OTHER), strict=True):
                async with asyncio.timeout(8):
                    await loop.sock_connect(flow, (address, 7))
                assert await said(flow, b"before")
            await pool.restrict(slot, Egress(deny=(f"{PUBLIC}/32",)))
            assert not await said(flows[0], b"cut off")
            assert await said(flows[1], b"goes on")
            assert b"cut off" not in heard
            for flow in flows:
                flow.close()


@in_lab
async def test_a_restart_keeps_it_and_a_slot_that_is_handed_on_forgets_it() -> None:
    async with world() as (_, pool, slot):
        egress = Egress(deny=(f"{OTHER}/32",))
        await pool.restrict(slot, egress)
        await pool.close()
        with Guest(slot) as guest:
            assert await guest.fetch(OTHER, patience=SOON) is None, "also while no agent runs"
        again = make_pool()
        assert await again.start(adopt={slot.number: egress}) == {slot.number}
        with Guest(slot) as guest:
            assert await guest.fetch(PUBLIC)
            assert await guest.fetch(OTHER, patience=SOON) is None
        await again.release(slot)
        await again.settle()
        with pytest.raises(HostFailure, match="not in use"):
            await again.restrict(slot, Egress())
        fresh = await again.acquire()
        with Guest(fresh) as guest:
            assert await guest.fetch(OTHER)
        await again.release(fresh)
        await again.close()
        pool._used.clear()
