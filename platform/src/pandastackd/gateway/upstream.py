"""One connection to a port in a guest: HTTP/1.1 requests out, answers in by pieces, bare bytes after an upgrade.

What is read ahead is bounded: beyond ``HIGH_WATER`` bytes that nobody has taken, the socket is left alone, so a
slow client slows the guest down and memory stays flat. Guests may send anything: what is not HTTP ends in
:class:`BrokenAnswer`.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

import httptools

HIGH_WATER: Final = 512 * 1024
MAX_HEAD: Final = 64 * 1024
MAX_HEADERS: Final = 200

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_BODILESS = frozenset({204, 304})


class BrokenAnswer(Exception):
    """The guest's answer ended early or is not HTTP."""


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of an answer; ``body`` is all of it where the platform itself answers."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""


class Upstream(asyncio.Protocol):
    """A connection. One exchange at a time: :meth:`begin`, write, :meth:`head`, :meth:`piece` until ``None``.

    Attributes:
        reusable: the last exchange is complete and the guest keeps the connection open.
        upgraded: the guest has answered 101: :meth:`piece` gives its bare bytes from now on.
    """

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.reusable = False
        self.upgraded = False
        self._loop = asyncio.get_running_loop()
        self._readable: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._lost = False
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._head_only = False
        self._status = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_size = 0
        self._head_done = False
        self._pieces: deque[bytes] = deque()
        self._held = 0
        self._paused = False
        self._complete = False
        self._broken: str | None = None
        self._until_close = False

    # ------------------------------------------------------------ for the proxy

    def renew(self) -> None:
        """Forget the last exchange: what is read from now on belongs to the next one."""
        self.reusable = False
        self._begin()

    def begin(
        self, method: str, target: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes = b""
    ) -> None:
        """Send the head of a request, and the beginning of its body in the same segment."""
        self._head_only = method == "HEAD"
        lines = [method.encode("ascii"), b" ", target, b" HTTP/1.1\r\n"]
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
        lines += (b"\r\n", body)
        self.transport.write(b"".join(lines))

    async def write(self, data: bytes) -> None:
        """Send more; waits while the guest takes no more. Bytes for a guest that is gone are dropped."""
        if not self._lost:
            self.transport.write(data)
        if self._writable is not None:
            await self._writable

    async def head(self) -> Head:
        """The beginning of the answer.

        Raises:
            BrokenAnswer: there is none.
        """
        while not self._head_done:
            await self._wait()
        return Head(self._status, self._headers)

    async def piece(self) -> bytes | None:
        """The next bytes of the body, all that are there; ``None`` at its end.

        Raises:
            BrokenAnswer: it ended early.
        """
        while not self._pieces:
            if self._complete:
                return None
            await self._wait()
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._held = 0
        if self._paused and not self._lost:
            self._paused = False
            self.transport.resume_reading()
        return data

    def at_end(self) -> bool:
        """Whether the whole answer has been taken."""
        return self._complete and not self._pieces

    def end_writing(self) -> None:
        """Let the other side see the end of what we send."""
        if not self._lost and self.transport.can_write_eof():
            self.transport.write_eof()

    def abort(self) -> None:
        """Cut the connection now: nobody wants the answer any more."""
        if not self._lost:
            self.transport.abort()

    async def _wait(self) -> None:
        if self._broken is not None:
            raise BrokenAnswer(self._broken)
        self._readable = self._loop.create_future()
        try:
            await self._readable
        finally:
            self._readable = None

    def _wake(self) -> None:
        if self._readable is not None and not self._readable.done():
            self._readable.set_result(None)

    def _break(self, reason: str) -> None:
        if not self._complete and self._broken is None:
            self._broken = reason
        self.reusable = False
        self._wake()

    # ------------------------------------------------------- called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is ours."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Bytes from the guest."""
        if self.upgraded:
            self._keep(data)
        elif self._complete:
            # An answer that nobody asked for, or more than it announced: this connection cannot be trusted.
            self.reusable = False
            self.transport.abort()
        else:
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._head_done and self._status == 101:
                self.upgraded = True
                self._complete = False
                if rest := data[upgrade.args[0] :]:
                    self._keep(rest)
                self._wake()
            else:
                self._break("an upgrade that nobody asked for")
        except httptools.HttpParserError as error:
            if not self._complete:
                self._break(f"not HTTP: {error}")
            self.transport.abort()

    def eof_received(self) -> bool:
        """The guest sends no more; after an upgrade it may still listen."""
        if self.upgraded or (self._head_done and self._until_close):
            self._complete = True
        self._break("the connection ended")
        return self.upgraded

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._lost = True
        if exc is None and (self.upgraded or (self._head_done and self._until_close)):
            self._complete = True
        self._break(f"the connection broke: {exc}" if exc else "the connection ended")
        self.resume_writing()

    def pause_writing(self) -> None:
        """The socket takes no more."""
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """The socket takes more."""
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    # ----------------------------------------------------- called by the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header of the answer."""
        self._head_size += len(name) + len(value)
        if self._head_size > MAX_HEAD or len(self._headers) >= MAX_HEADERS:
            raise ValueError("the head of the answer is too large")
        if not _NAME.fullmatch(name) or _BAD_VALUE.search(value):
            raise ValueError("a header of the answer is malformed")
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head of the answer is there."""
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            return  # an interim answer; the real one follows
        if not 100 < status < 600:
            raise ValueError(f"status {status} means nothing")
        self._status = status
        names = {name for name, _ in self._headers}
        self._until_close = not names & {b"content-length", b"transfer-encoding"}
        self._head_done = True
        if self._head_only or status in _BODILESS:
            # The parser does not know what was asked and would wait for a body.
            self._complete = True
        self._wake()

    def on_body(self, body: bytes) -> None:
        """Some of the answer's body."""
        if not self._complete:
            self._keep(body)

    def on_message_complete(self) -> None:
        """The answer, or an interim one, is whole."""
        if not self._head_done:
            self._headers = []
            return
        if self._status != 101:
            self._complete = True
            self.reusable = self._parser.should_keep_alive()
        self._wake()

    def _keep(self, data: bytes) -> None:
        self._pieces.append(data)
        self._held += len(data)
        if self._held > HIGH_WATER and not self._paused:
            self._paused = True
            self.transport.pause_reading()
        self._wake()
