"""Ports of a sandbox: those that something listens on, and those that its owner gave a label.

What listens is read from the guest's own table of sockets: it is believed as far as it is well-formed, and shown,
nothing else. What carries traffic to a port asks the guest again.
"""

from __future__ import annotations

import re
from contextlib import aclosing, suppress
from dataclasses import dataclass

from pandastackd.control.host import Guest
from pandastackd.control.keys import Principal
from pandastackd.control.sandboxes import Sandboxes
from pandastackd.errors import InvalidRequest, NotFound, PlatformError
from pandastackd.guest.types import Command, Output
from pandastackd.lifecycle import State
from pandastackd.store import Store

MAX_LABELLED = 64
MAX_LABEL = 64
"""Characters of a label."""

_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
_TABLE_LIMIT = 1024 * 1024
_LOOK_SECONDS = 5.0
# Local address and port, remote address, state 0A: listening.
_LISTENING = re.compile(rb"^ *\d+: [0-9A-F]+:([0-9A-F]{4}) [0-9A-F]+:[0-9A-F]{4} 0A ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Port:
    """A port of a sandbox.

    Attributes:
        label: what its owner calls it; empty when it was only found listening.
        listening: something takes connections there just now; unknown, and so false, while the sandbox sleeps.
        labelled: its owner named it.
    """

    port: int
    label: str
    listening: bool
    labelled: bool


class Ports:
    """What a caller may know and say of ports."""

    def __init__(self, store: Store, sandboxes: Sandboxes) -> None:
        self._store = store
        self._sandboxes = sandboxes

    async def listed(self, principal: Principal, sandbox_id: str) -> list[Port]:
        """Labelled and listening ports, by number. A sandbox that sleeps is not woken.

        Raises:
            NotFound: there is no such sandbox.
        """
        row = await self._sandboxes.get(principal, sandbox_id)
        found: set[int] = set()
        if row.state == State.RUNNING:
            async with self._sandboxes.use(principal, sandbox_id) as guest:
                found = await _listening(guest)
        labels = {int(port): label for port, label in row.ports.items()}
        return [
            Port(port, labels.get(port, ""), port in found, port in labels)
            for port in sorted(found | labels.keys())
        ]

    async def label(self, principal: Principal, sandbox_id: str, port: int, label: str) -> Port:
        """Name a port, or name it anew.

        Raises:
            NotFound: there is no such sandbox.
            InvalidRequest: the label is too long, or too many ports have one.
        """
        if len(label) > MAX_LABEL or not label.isprintable():
            raise InvalidRequest(f"label must be at most {MAX_LABEL} printable characters")
        row = await self._sandboxes.get(principal, sandbox_id)
        if len(row.ports.keys() | {str(checked_port(port))}) > MAX_LABELLED:
            raise InvalidRequest(f"at most {MAX_LABELLED} ports of a sandbox may have a label")
        await self._store.sandboxes.label_port(sandbox_id, port, label)
        return next(each for each in await self.listed(principal, sandbox_id) if each.port == port)

    async def unlabel(self, principal: Principal, sandbox_id: str, port: int) -> None:
        """Take a port's name away; what listens there goes on.

        Raises:
            NotFound: there is no such sandbox, or the port has no label.
        """
        row = await self._sandboxes.get(principal, sandbox_id)
        if str(port) not in row.ports:
            raise NotFound(f"port {port} of sandbox {sandbox_id} has no label")
        await self._store.sandboxes.label_port(sandbox_id, port, None)


def checked_port(port: int) -> int:
    """A port that a server can listen on. Raises InvalidRequest."""
    if not 1 <= port <= 65535:
        raise InvalidRequest(f"port must be from 1 to 65535, not {port}", code="invalid_port")
    return port


async def _listening(guest: Guest) -> set[int]:
    """The ports that something in the guest listens on; none when the guest does not say."""
    table = bytearray()
    command = Command(args=("cat", *_TABLES), timeout_seconds=_LOOK_SECONDS)
    with suppress(PlatformError):
        async with aclosing(guest.start(command)) as events:
            async for event in events:
                if isinstance(event, Output) and event.stream == "stdout":
                    table += event.data
                if len(table) > _TABLE_LIMIT:
                    break
    return {int(port, 16) for port in _LISTENING.findall(table[:_TABLE_LIMIT])}
