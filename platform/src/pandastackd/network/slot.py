"""One network slot as the rest of the platform sees it: names, addresses, and a way to the guest in it."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from pandastackd.errors import GuestUnreachable
from pandastackd.network import namespace
from pandastackd.network.addresses import (
    CONTROL_GUEST,
    CONTROL_TAP,
    DATA_GUEST,
    DATA_GUEST_MAC,
    DATA_TAP,
)

CONNECT_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot, in use or ready. A handle: it stays valid while the pool counts the number as used.

    Attributes:
        name: of the namespace, as for ``ip netns exec``.
        netns: path of the namespace.
        uid: the only user who may attach to the taps.
        mac: of the guest's data NIC; the same in every guest.
        host_ip: the host's end of the veth pair.
        uplink_ip: the slot's end; what the host sees the guest's traffic come from.
        guest_ip: the guest's data address; the same in every guest.
    """

    number: int
    name: str
    netns: Path
    uid: int
    host_ip: IPv4Address
    uplink_ip: IPv4Address
    data_tap: str = DATA_TAP
    control_tap: str = CONTROL_TAP
    mac: str = DATA_GUEST_MAC
    guest_ip: IPv4Address = DATA_GUEST

    async def connect(self, port: int, timeout_seconds: float = CONNECT_SECONDS) -> socket.socket:
        """A connected, non-blocking TCP socket to ``port`` of the guest's control address.

        The socket is made inside the namespace, so no route from here to the guest is needed. The caller
        closes it. One attempt; trying again while the guest comes up is the caller's business.

        Raises:
            GuestUnreachable: no slot, no answer in time, or nothing listens there.
        """
        try:
            made = await namespace.open_in(self.netns, _control_socket, discard=socket.socket.close)
        except OSError as error:
            raise GuestUnreachable(
                f"network slot {self.number} is gone ({error.strerror or error}): "
                "its sandbox cannot be reached any more"
            ) from error
        try:
            async with asyncio.timeout(timeout_seconds):
                await asyncio.get_running_loop().sock_connect(made, (str(CONTROL_GUEST), port))
        except BaseException as error:
            made.close()
            if isinstance(error, TimeoutError):
                raise GuestUnreachable(
                    f"the guest in slot {self.number} did not answer on port {port} "
                    f"within {timeout_seconds:g} s"
                ) from error
            if isinstance(error, OSError):
                raise GuestUnreachable(
                    f"the guest in slot {self.number} refused port {port}: {error.strerror or error}"
                ) from error
            raise
        return made


def _control_socket() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made
