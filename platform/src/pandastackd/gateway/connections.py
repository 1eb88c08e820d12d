"""Connections to guests: made when needed, kept for a moment where that is safe.

Only those to the guest agent are kept: it closes an idle one long after we do, so a request never meets a
connection that is just going away. A user's own server closes whenever it likes.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final, Protocol
from weakref import WeakKeyDictionary

from pandastackd.gateway.upstream import Upstream

AGENT_PORT: Final = 49983
"""The guest agent's public port: it demands the sandbox's access token itself."""

DIAL_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 15.0
IDLE_CONNECTIONS: Final = 8


class Dialer(Protocol):
    """What this room needs of a guest's client; as the real one, a client ends with its machine."""

    async def dial(self, port: int, *, timeout_seconds: float = DIAL_SECONDS) -> socket.socket:
        """A connected, non-blocking socket to a port of the guest. Raises NotFound, GuestUnreachable."""


class Connections:
    """All connections of one gateway."""

    def __init__(self) -> None:
        self._idle: WeakKeyDictionary[Dialer, list[Upstream]] = WeakKeyDictionary()

    async def open(self, guest: Dialer, port: int) -> Upstream:
        """A connection to ``port`` of the guest.

        Raises:
            NotFound: nothing listens there.
            GuestUnreachable: the guest does not answer.
        """
        kept = self._idle.get(guest) if port == AGENT_PORT else None
        while kept:
            upstream = kept.pop()
            if not upstream.transport.is_closing():
                upstream.renew()
                return upstream
        sock = await guest.dial(port)
        try:
            _, upstream = await asyncio.get_running_loop().create_connection(Upstream, sock=sock)
        except BaseException:
            sock.close()
            raise
        return upstream

    def give_back(self, guest: Dialer, port: int, upstream: Upstream) -> None:
        """Keep a connection for the next request, or cut it off."""
        if port != AGENT_PORT or not upstream.reusable or upstream.transport.is_closing():
            upstream.abort()
            return
        kept = self._idle.setdefault(guest, [])
        if len(kept) >= IDLE_CONNECTIONS:
            upstream.abort()
            return
        kept.append(upstream)
        asyncio.get_running_loop().call_later(IDLE_SECONDS, self._expire, kept, upstream)

    @staticmethod
    def _expire(kept: list[Upstream], upstream: Upstream) -> None:
        # One that was used again meanwhile ends a little early the next time it rests: no harm.
        if upstream in kept:
            kept.remove(upstream)
            upstream.abort()
