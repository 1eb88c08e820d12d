"""A host, an internet and guests, all of them network namespaces that vanish with the test.

Needs root, network and mount namespaces, nftables and ``/dev/net/tun``; touches nothing of the real host:
each test runs in a thread that has moved to a network and a mount namespace of its own, with an empty
``/run``. There it *is* the host.

    guest eth0/eth1 ══ frames copied by hand ══ tap0/ctl0 [slot ps-<n>] ══ psv<n> [host] wan7 ══ [internet]

A guest is a namespace with two taps of its own; frames are copied between them and the slot's real taps, as a
VMM would.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import os
import socket
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, Self

from pyroute2.iproute.linux import IPRoute

from pandastackd.network import Slot, SlotPool, namespace
from pandastackd.network import addresses as plan
from pandastackd.network.addresses import AddressPlan
from pandastackd.network.policy import Policy
from pandastackd.network.taps import TUN_DEVICE, attach

NETWORK = IPv4Network("10.213.0.0/16")
UID_BASE = 1_950_000_000
HOST_ADDRESS = "203.0.113.1"
PUBLIC = "203.0.113.2"
RESOLVERS = ("10.9.9.53", "203.0.113.53")
PRIVATE = (
    "10.9.9.9",
    "100.64.1.1",
    "169.254.169.254",
    "172.16.5.5",
    "192.168.77.1",
    "198.18.0.9",
    "192.0.0.192",
    "240.0.0.9",
    "10.9.9.53",
)
"""Addresses that really answer, in the namespace that plays the internet, and that no guest may reach."""

PATIENCE = 8.0
"""Seconds for what must work: a first packet may be lost while the kernel brings a link up."""

_NEWNET, _NEWNS = 0x4000_0000, 0x0002_0000
_libc = ctypes.CDLL(None, use_errno=True)


def _must(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _become_host() -> None:
    _must(_libc.unshare(_NEWNET | _NEWNS))
    _must(_libc.mount(b"none", b"/", None, 0x4000 | 0x4_0000, None))  # recursive, private
    _must(_libc.mount(b"tmpfs", b"/run", b"tmpfs", 0, b"size=16m"))
    _must(_libc.mount(b"sysfs", b"/sys", b"sysfs", 0, None))  # shows the interfaces of this namespace
    with IPRoute() as netlink:
        netlink.link("set", index=1, state="up")


def in_lab(scenario: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Turn an async scenario into a test that runs it on a host of its own."""

    @functools.wraps(scenario)
    def test() -> None:
        failure: list[BaseException] = []

        def body() -> None:
            try:
                _become_host()
                asyncio.run(_bounded(scenario))
            except BaseException as error:  # noqa: BLE001  handed to pytest's thread
                failure.append(error)

        thread = threading.Thread(target=body, name="lab")
        thread.start()
        thread.join()
        if failure:
            raise failure[0]

    return test


async def _bounded(scenario: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.timeout(120):
        await scenario()


def make_pool(**changes: Any) -> SlotPool:
    """A pool with the lab's network and resolvers."""
    rules = Policy(
        NETWORK,
        tuple(IPv4Address(one) for one in changes.pop("resolvers", RESOLVERS)),
        max_flows=changes.pop("max_flows", 4096),
        openable=tuple(IPv4Network(one) for one in changes.pop("openable", ())),
    )
    return SlotPool(
        AddressPlan(changes.pop("network", NETWORK)), rules, uid_base=UID_BASE, **{"ready": 0, **changes}
    )


def traces() -> set[str]:
    """Everything of slots that exists on this host: names of namespaces and of links."""
    return {n for n in namespace.names() if n.startswith("ps-")} | {
        name for _, name in socket.if_nameindex() if name.startswith("psv")
    }


def make_namespace(path: Path) -> None:
    """A new, empty, named network namespace."""

    def make() -> None:
        namespace.leave_for_new_namespace()
        namespace.publish(path)

    namespace.run_in_thread(make)


@dataclass
class Internet:
    """The world behind the host's uplink: public addresses, and private ones that must not be reached."""

    path: Path = namespace.NETNS_DIR / "lab-internet"
    seen: list[str] = field(default_factory=list)
    servers: list[Any] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        namespace.ensure_directory()
        make_namespace(self.path)
        namespace.run_in_thread(self._connect)
        namespace.run_in(self.path, self._furnish)
        await self.serve_tcp(80)
        await self.serve_tcp(53)
        await self.serve_udp(53)
        return self

    def _connect(self) -> None:
        world = namespace.open_namespace(self.path)
        with IPRoute() as netlink:
            netlink.link("add", ifname="wan7", kind="veth", peer={"ifname": "world", "net_ns_fd": world})
            wan = socket.if_nametoindex("wan7")
            netlink.addr("add", index=wan, address=HOST_ADDRESS, prefixlen=24)
            netlink.link("set", index=wan, state="up")
            netlink.route("add", dst="0.0.0.0/0", gateway=PUBLIC)
        os.close(world)

    def _furnish(self) -> None:
        with IPRoute() as netlink:
            netlink.link("set", index=1, state="up")
            world = socket.if_nametoindex("world")
            netlink.addr("add", index=world, address=PUBLIC, prefixlen=24)
            netlink.link("set", index=world, state="up")
            for address in {*PRIVATE, *RESOLVERS}:
                netlink.addr("add", index=world, address=address, prefixlen=32)

    async def serve_tcp(self, port: int) -> None:
        """Answer each connection with the caller's address, and note it as ``tcp/<port> <own> <caller>``."""

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            own, caller = writer.get_extra_info("sockname")[0], writer.get_extra_info("peername")[0]
            self.seen.append(f"tcp/{port} {own} {caller}")
            writer.write(caller.encode())
            with contextlib.suppress(OSError):
                await writer.drain()
            writer.close()

        made = namespace.run_in(self.path, lambda: listener(port))
        self.servers.append(await asyncio.start_server(answer, sock=made))

    async def serve_udp(self, port: int) -> None:
        """Echo each datagram, from the address it was sent to."""
        for address in (PUBLIC, *RESOLVERS):
            made = namespace.run_in(self.path, functools.partial(datagrams, address, port))
            loop = asyncio.get_running_loop()

            def echo(one: socket.socket = made, own: str = address) -> None:
                data, caller = one.recvfrom(2048)
                self.seen.append(f"udp/{port} {own} {caller[0]}")
                one.sendto(own.encode() + b" " + data, caller)

            loop.add_reader(made, echo)
            self.servers.append(made)

    async def __aexit__(self, *_: object) -> None:
        for server in self.servers:
            if isinstance(server, socket.socket):
                asyncio.get_running_loop().remove_reader(server)
            server.close()
        namespace.remove(self.path)


@asynccontextmanager
async def world(**changes: object) -> AsyncIterator[tuple[Internet, SlotPool, Slot]]:
    """An internet, a pool and one slot."""
    async with Internet() as internet:
        pool = make_pool(**changes)
        await pool.start()
        slot = await pool.acquire()
        yield internet, pool, slot
        for number in list(pool._used):
            await pool.release(pool.slot(number))
        await pool.close()
        assert traces() == set()


def add_link(name: str, address: str = "", prefix: int = 32) -> None:
    """Another interface of this host, as good as any: one end of a veth pair."""

    def add() -> None:
        with IPRoute() as netlink:
            netlink.link("add", ifname=name, kind="veth", peer={"ifname": f"{name}-far"})
            index = socket.if_nametoindex(name)
            if address:
                netlink.addr("add", index=index, address=address, prefixlen=prefix)
            netlink.link("set", index=index, state="up")

    namespace.run_in_thread(add)


def listener(port: int, address: str = "0.0.0.0") -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((address, port))
    made.listen(64)
    made.setblocking(False)
    return made


def datagrams(address: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((address, port))
    made.setblocking(False)
    return made


class Guest:
    """What sits behind a slot's taps: a namespace that is configured as guest-init configures a guest."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.path = namespace.NETNS_DIR / f"lab-guest-{slot.number}"
        self._pairs: list[tuple[int, int]] = []

    def __enter__(self) -> Self:
        make_namespace(self.path)
        for inside, outside in (("eth0", self.slot.data_tap), ("eth1", self.slot.control_tap)):
            mine = namespace.run_in(self.path, functools.partial(open_tap, inside))
            theirs = namespace.run_in(self.slot.netns, functools.partial(open_tap, outside))
            self._pairs.append((mine, theirs))
        namespace.run_in(self.path, self._configure)
        loop = asyncio.get_running_loop()
        for mine, theirs in self._pairs:
            loop.add_reader(mine, copy_frames, mine, theirs)
            loop.add_reader(theirs, copy_frames, theirs, mine)
        return self

    def _configure(self) -> None:
        with IPRoute() as netlink:
            netlink.link("set", index=1, state="up")
            for name, mac, address in (
                ("eth0", plan.DATA_GUEST_MAC, plan.DATA_GUEST),
                ("eth1", plan.CONTROL_GUEST_MAC, plan.CONTROL_GUEST),
            ):
                index = socket.if_nametoindex(name)
                netlink.link("set", index=index, address=mac, state="up")
                netlink.addr("add", index=index, address=str(address), prefixlen=30)
            netlink.route("add", dst="0.0.0.0/0", gateway=str(plan.DATA_GATEWAY))

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for one in (fd for pair in self._pairs for fd in pair):
            loop.remove_reader(one)
            os.close(one)
        namespace.remove(self.path)

    def run(self, function: Callable[[], Any]) -> Any:
        """Run something inside the guest; it must not need the event loop's help to end."""
        return namespace.run_in(self.path, function)

    async def fetch(
        self, address: str, port: int = 80, *, patience: float = PATIENCE, source: str = ""
    ) -> str | None:
        """What the server at that address says; None when it cannot be reached."""
        return await fetch(self.path, address, port, patience=patience, source=source)

    async def ask(self, address: str, port: int = 53, *, patience: float = PATIENCE) -> str | None:
        """The answer to a datagram; None when there is none."""
        made = self.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
        loop = asyncio.get_running_loop()
        with made:
            try:
                async with asyncio.timeout(patience):
                    await loop.sock_connect(made, (address, port))
                    await loop.sock_sendall(made, b"query")
                    return (await loop.sock_recv(made, 2048)).decode()
            except (TimeoutError, OSError):
                return None


async def fetch(
    path: Path | None, address: str, port: int = 80, *, patience: float = PATIENCE, source: str = ""
) -> str | None:
    """As :meth:`Guest.fetch`, from any namespace; None is this host."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        if source:
            made.bind((source, 0))
        return made

    made = make() if path is None else namespace.run_in(path, make)
    loop = asyncio.get_running_loop()
    with made:
        try:
            async with asyncio.timeout(patience):
                await loop.sock_connect(made, (address, port))
                return (await loop.sock_recv(made, 2048)).decode()
        except (TimeoutError, OSError):
            return None


def open_tap(name: str) -> int:
    """Attach to (or make) a tap of the calling thread's namespace, as a VMM does."""
    descriptor = os.open(TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    attach(descriptor, name)
    return descriptor


def copy_frames(source: int, target: int) -> None:
    """Move what has arrived on one tap to another."""
    for _ in range(64):
        try:
            frame = os.read(source, 70_000)
        except (BlockingIOError, OSError):
            return
        with contextlib.suppress(OSError):
            os.write(target, frame)


def udp_packet(source: str, target: str, port: int, data: bytes = b"x") -> bytes:
    """An IPv4 UDP packet with any source address, for raw sockets that include the header."""
    body = struct.pack("!HHHH", 4242, port, 8 + len(data), 0) + data
    head = struct.pack(
        "!BBHHHBBH4s4s",
        0x45, 0, 20 + len(body), 7, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(target),
    )  # fmt: skip
    return head + body


def send_raw(source: str, target: str, port: int) -> None:
    """Send such a packet from the calling thread's namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(udp_packet(source, target, port), (target, 0))
