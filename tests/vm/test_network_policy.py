"""The default policy, proved with packets: what a guest may reach, and all that it may not.

Every address that must not be reached really answers (the host can fetch from it), so silence is the policy's
work. Needs root, network and mount namespaces, nftables, ``/dev/net/tun``. Leaves nothing: see
``network_lab``.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import socket
from pathlib import Path

import pytest
from pyroute2.iproute.linux import IPRoute

from pandastackd.network import namespace
from pandastackd.network.host import foreign_forward_drops
from pandastackd.network.policy import apply_rules
from tests.vm.network_lab import (
    HOST_ADDRESS,
    PRIVATE,
    PUBLIC,
    RESOLVERS,
    Guest,
    add_link,
    datagrams,
    fetch,
    in_lab,
    listener,
    make_namespace,
    send_raw,
    world,
)

pytestmark = pytest.mark.needs("root", "tun", "nft")


@in_lab
async def test_the_internet_is_reached_under_the_hosts_address() -> None:
    async with world() as (internet, _, slot):
        with Guest(slot) as guest:
            assert await guest.fetch(PUBLIC) == HOST_ADDRESS
            await internet.serve_udp(4433)
            assert await guest.ask(PUBLIC, 4433) == f"{PUBLIC} query"


@in_lab
async def test_private_and_special_ranges_are_not() -> None:
    async with world() as (internet, _, slot):
        for address in PRIVATE:
            assert await fetch(None, address), f"the lab's {address} must answer the host"
        internet.seen.clear()
        with Guest(slot) as guest:
            answers = await asyncio.gather(
                *(guest.fetch(address, patience=0.5) for address in PRIVATE),
                *(guest.fetch(address, 53, patience=0.5) for address in PRIVATE),
                *(guest.ask(address, patience=0.5) for address in PRIVATE),
            )
            assert set(answers) == {None}
        assert internet.seen == []


@in_lab
async def test_the_second_wall_holds_without_the_first() -> None:
    """A VMM that was broken out of sits inside the slot, past the slot's rules; here they are simply gone."""
    async with world() as (internet, pool, slot):
        neighbour = await pool.acquire()
        sink = datagrams("0.0.0.0", 7777)
        served = listener(8080)
        namespace.run_in(slot.netns, lambda: apply_rules('{"nftables": [{"flush": {"ruleset": null}}]}'))
        assert await fetch(slot.netns, PUBLIC) == HOST_ADDRESS  # so the walls below are the host's
        internet.seen.clear()
        targets = [(address, 80) for address in PRIVATE] + [
            (address, 8080) for address in (HOST_ADDRESS, str(slot.host_ip), str(neighbour.host_ip))
        ]
        answers = await asyncio.gather(*(fetch(slot.netns, a, p, patience=0.5) for a, p in targets))
        assert set(answers) == {None}
        spoofed = str(neighbour.uplink_ip)
        await namespace.open_in(slot.netns, lambda: send_raw(spoofed, PUBLIC, 53))
        await namespace.open_in(slot.netns, lambda: send_raw("203.0.113.77", PUBLIC, 53))
        await namespace.open_in(slot.netns, lambda: send_raw(spoofed, str(slot.host_ip), 7777))
        await asyncio.sleep(0.2)
        assert internet.seen == []
        with pytest.raises(BlockingIOError):
            sink.recv(64)
        await namespace.open_in(slot.netns, lambda: send_raw(str(slot.uplink_ip), PUBLIC, 53))
        await asyncio.sleep(0.2)
        assert internet.seen == [f"udp/53 {PUBLIC} {HOST_ADDRESS}"]  # the same packet, with its own address
        sink.close()
        served.close()


@in_lab
async def test_no_address_of_the_host_is_reached() -> None:
    async with world() as (_, pool, slot):
        other = await pool.acquire()
        add_link("pub0", "198.51.100.7")
        served = listener(8080)
        sink = datagrams("0.0.0.0", 7777)
        mine = [HOST_ADDRESS, "198.51.100.7", str(slot.host_ip), str(other.host_ip), "127.0.0.1"]
        for address in mine:
            with socket.create_connection((address, 8080), timeout=1):
                pass
        with Guest(slot) as guest:
            own = [str(slot.uplink_ip), "10.200.0.1", "169.254.77.1"]
            answers = await asyncio.gather(
                *(guest.fetch(address, 8080, patience=0.5) for address in mine + own),
                *(guest.ask(address, 7777, patience=0.5) for address in mine + own),
            )
            assert set(answers) == {None}
        with pytest.raises(BlockingIOError):
            sink.recv(64)
        served.close()
        sink.close()


@in_lab
async def test_guests_do_not_reach_each_other() -> None:
    async with world() as (_, pool, slot):
        other = await pool.acquire()
        with Guest(slot) as one, Guest(other) as two:
            servers = [two.run(lambda: listener(8000)), two.run(lambda: listener(49984))]
            inside = namespace.run_in(other.netns, lambda: listener(8001))
            assert await one.fetch(PUBLIC)
            assert await two.fetch(PUBLIC)
            ways = [str(other.uplink_ip), str(other.host_ip), "10.200.0.2", HOST_ADDRESS]
            answers = await asyncio.gather(
                *(one.fetch(way, port, patience=0.5) for way in ways[:2] for port in (8000, 8001, 49984)),
                *(one.fetch(way, 8000, patience=0.5) for way in ways[2:]),
            )
            assert set(answers) == {None}
            for server in servers:
                with pytest.raises(BlockingIOError):
                    server.accept()
                server.close()
            inside.close()


@in_lab
async def test_nothing_is_reached_under_another_source_address() -> None:
    async with world() as (internet, _, slot):
        with Guest(slot) as guest:
            assert await guest.fetch(PUBLIC)  # the links are up
            internet.seen.clear()
            await namespace.open_in(guest.path, lambda: send_raw("10.200.0.2", PUBLIC, 53))
            await asyncio.sleep(0.1)
            assert internet.seen == [f"udp/53 {PUBLIC} {HOST_ADDRESS}"]  # the true one works
            internet.seen.clear()
            for lie in (
                "203.0.113.99",
                str(slot.uplink_ip),
                "10.213.0.6",
                "169.254.77.2",
                "127.0.0.1",
                "10.200.0.1",
            ):
                await namespace.open_in(guest.path, functools.partial(send_raw, lie, PUBLIC, 53))
            await asyncio.sleep(0.2)
            assert internet.seen == []


@in_lab
async def test_dns_goes_to_the_resolvers_and_only_from_the_gateways_port() -> None:
    async with world() as (internet, _, slot):
        with Guest(slot) as guest:
            answers = {await guest.ask("10.200.0.1") for _ in range(4)}
            assert answers == {f"{one} query" for one in RESOLVERS}  # all of them are used
            assert {await guest.fetch("10.200.0.1", 53) for _ in range(2)} == {HOST_ADDRESS}
            internet.seen.clear()
            assert await guest.ask("10.9.9.53", patience=0.4) is None  # the resolver itself is private
            assert await guest.fetch("10.200.0.1", 80, patience=0.4) is None
            assert internet.seen == []


@in_lab
async def test_a_resolver_on_the_host_itself_is_asked_and_nothing_else_there() -> None:
    async with world(resolvers=[HOST_ADDRESS]) as (_, _, slot):
        resolver, secret = listener(53), listener(8080)
        with Guest(slot) as guest:
            waiting = asyncio.create_task(guest.fetch("10.200.0.1", 53))
            accepted, _ = await asyncio.get_running_loop().sock_accept(resolver)
            accepted.sendall(b"answer")
            assert await waiting == "answer"
            accepted.close()
            assert await guest.fetch(HOST_ADDRESS, 8080, patience=0.4) is None
        resolver.close()
        secret.close()


@in_lab
async def test_the_control_nic_is_a_dead_end_for_the_guest() -> None:
    async with world() as (internet, _, slot):
        with Guest(slot) as guest:
            served = namespace.run_in(slot.netns, lambda: listener(8080))
            assert await guest.fetch("169.254.77.1", 8080, patience=0.4, source="169.254.77.2") is None

            def through_control() -> None:
                with IPRoute() as netlink:
                    index = socket.if_nametoindex("eth1")
                    netlink.route("replace", dst="0.0.0.0/0", gateway="169.254.77.1", oif=index)

            guest.run(through_control)
            answers = await asyncio.gather(
                guest.fetch(PUBLIC, patience=0.5),
                guest.fetch(PUBLIC, patience=0.5, source="10.200.0.2"),
                guest.fetch("10.9.9.9", patience=0.5),
            )
            assert set(answers) == {None}
            assert internet.seen == []
            # while the host still gets its answers there
            control = guest.run(lambda: listener(49984))
            (await slot.connect(49984)).close()
            control.close()
            served.close()


@in_lab
async def test_nothing_outside_opens_a_flow_to_a_guest() -> None:
    async with world() as (internet, _, slot):
        with Guest(slot) as guest:
            served = guest.run(lambda: listener(8000))

            def route_in() -> None:
                with IPRoute() as netlink:
                    netlink.route("add", dst="10.213.0.0/16", gateway=HOST_ADDRESS)

            namespace.run_in(internet.path, route_in)
            answers = await asyncio.gather(
                fetch(None, str(slot.uplink_ip), 8000, patience=0.5),
                fetch(internet.path, str(slot.uplink_ip), 8000, patience=0.5),
            )
            assert set(answers) == {None}
            with pytest.raises(BlockingIOError):
                served.accept()
            served.close()


@in_lab
async def test_there_is_no_ipv6() -> None:
    async with world() as (_, _, slot):

        def addresses() -> str:
            file = Path("/proc/thread-self/net/if_inet6")
            return file.read_text() if file.exists() else ""

        assert namespace.run_in(slot.netns, addresses) == ""
        assert f"psv{slot.number}" not in namespace.run_in_thread(addresses)


@in_lab
async def test_a_guest_cannot_hold_flows_without_end() -> None:
    async with world(max_flows=8) as (internet, _, slot):
        await internet.serve_udp(4433)
        with Guest(slot) as guest:

            async def one() -> str | None:
                return await guest.ask(PUBLIC, 4433, patience=0.5)

            answers = await asyncio.gather(*(one() for _ in range(20)))
            assert 1 <= sum(answer is not None for answer in answers) <= 8


@in_lab
async def test_a_foreign_firewall_that_drops_is_named() -> None:
    assert foreign_forward_drops() == []
    async with world():
        assert foreign_forward_drops() == []
        table = {"family": "ip", "table": "docker"}
        chain = {"name": "FORWARD", "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}
        docker = [{"table": {"family": "ip", "name": "docker"}}, {"chain": table | chain}]
        apply_rules(json.dumps({"nftables": [{"add": one} for one in docker]}))
        (finding,) = foreign_forward_drops()
        assert "ip docker" in finding
        assert "FORWARD" in finding


@in_lab
async def test_other_forwarding_of_the_host_is_left_alone() -> None:
    """A network that is none of ours goes on being routed, private addresses and all."""
    lan = namespace.NETNS_DIR / "lab-lan"

    def connect() -> None:
        inside = namespace.open_namespace(lan)
        with IPRoute() as netlink:
            netlink.link("add", ifname="lan0", kind="veth", peer={"ifname": "office", "net_ns_fd": inside})
            index = socket.if_nametoindex("lan0")
            netlink.addr("add", index=index, address="192.168.50.1", prefixlen=24)
            netlink.link("set", index=index, state="up")
        os.close(inside)

    def furnish() -> None:
        with IPRoute() as netlink:
            index = socket.if_nametoindex("office")
            netlink.addr("add", index=index, address="192.168.50.2", prefixlen=24)
            netlink.link("set", index=index, state="up")
            netlink.route("add", dst="0.0.0.0/0", gateway="192.168.50.1")

    def route_back() -> None:
        with IPRoute() as netlink:
            netlink.route("add", dst="192.168.50.0/24", gateway=HOST_ADDRESS)

    async with world() as (internet, _, slot):
        make_namespace(lan)
        namespace.run_in_thread(connect)
        namespace.run_in(lan, furnish)
        namespace.run_in(internet.path, route_back)
        assert await fetch(lan, PUBLIC) == "192.168.50.2"  # forwarded, and not put behind our NAT
        assert await fetch(lan, "10.9.9.9") == "192.168.50.2"
        assert await fetch(lan, HOST_ADDRESS, 80, patience=0.3) is None  # nothing listens there
        server = namespace.run_in(lan, lambda: listener(8080))
        with Guest(slot) as guest:
            assert await guest.fetch("192.168.50.2", 8080, patience=0.5) is None
        server.close()
        namespace.remove(lan)
