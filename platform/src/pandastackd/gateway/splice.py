"""WebSockets and other upgrades into a sandbox: the handshake goes through, then bytes both ways, unread.

The web server hands its applications messages, not bytes, so this takes the client's connection over from the
server itself. It does so only when the guest has agreed to the upgrade: a connection that goes on speaking HTTP
stays with the server's parser, where every request is routed by itself.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pandastackd.errors import PlatformError
from pandastackd.gateway import refusals
from pandastackd.gateway.address import Target, target_of
from pandastackd.gateway.gateway import Gateway, Refused
from pandastackd.gateway.headers import answer_headers, upgrade_headers
from pandastackd.gateway.upstream import BrokenAnswer, Head, Upstream

READ_AHEAD = 256 * 1024


def server_protocol(gateway: Gateway) -> type[HttpToolsProtocol]:
    """uvicorn's HTTP protocol, but for upgrades that are for a sandbox: those go through ``gateway``."""

    class Protocol(HttpToolsProtocol):
        def handle_websocket_upgrade(self) -> None:
            try:
                target = target_of(self.headers)
            except PlatformError:
                # An ordinary answer says what is wrong; the connection has no other use.
                self.send_400_response("E2b-Sandbox-Id and E2b-Sandbox-Port do not name a sandbox's port")
                return
            if target is None:
                super().handle_websocket_upgrade()
                return
            method = self.scope["method"]
            splice = Splice(gateway, target, method, self.url, list(self.headers), self.connections)
            self.connections.discard(self)
            self.transport.set_protocol(splice)
            splice.connection_made(self.transport)
            task = self.loop.create_task(splice.run())
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    return Protocol


class Splice(asyncio.Protocol):
    """A client's connection from its upgrade request to its end."""

    def __init__(
        self,
        gateway: Gateway,
        target: Target,
        method: str,
        url: bytes,
        headers: list[tuple[bytes, bytes]],
        connections: set[Any],
    ) -> None:
        self._gateway = gateway
        self._target = target
        self._method = method
        self._url = url
        self._headers = headers
        self._connections = connections
        self._transport: asyncio.Transport
        self._held: list[bytes] = []
        self._held_size = 0
        self._ended = False
        self._paused = False
        self._changed = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._gone = asyncio.get_running_loop().create_future()

    # ------------------------------------------------------- called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is ours from now on."""
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        self._held.append(data)
        self._held_size += len(data)
        if self._held_size > READ_AHEAD and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._changed.set()

    def eof_received(self) -> bool:
        """The client sends no more; it may still listen."""
        self._ended = True
        self._changed.set()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._connections.discard(self)
        self._ended = True
        self._changed.set()
        self._writable.set()
        if not self._gone.done():
            self._gone.set_result(None)

    def pause_writing(self) -> None:
        """The client takes no more."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The client takes more."""
        self._writable.set()

    def shutdown(self) -> None:
        """The server stops: such a connection has no good end of its own."""
        self._transport.abort()

    # ------------------------------------------------------------------ the job

    async def run(self) -> None:
        """Carry the connection until either side is gone."""
        carrying = asyncio.create_task(self._carry())
        try:
            await asyncio.wait({carrying, self._gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            carrying.cancel()
            await asyncio.gather(carrying, return_exceptions=True)
            self._transport.close()

    async def _carry(self) -> None:
        try:
            async with self._gateway.reach(self._target) as way:
                try:
                    await self._exchange(way.upstream, way.host)
                finally:
                    way.upstream.abort()
        except Refused as refused:
            await self._send_head(refused.head)
            await self._send(refused.head.body)
        except BrokenAnswer:
            # Too late for an answer: the client learns by the end of the connection.
            self._transport.abort()

    async def _exchange(self, upstream: Upstream, host: bytes | None) -> None:
        upstream.begin(self._method, self._url, upgrade_headers(self._headers, host))
        try:
            head = await upstream.head()
        except BrokenAnswer as error:
            head = refusals.broken(self._target, error)
            await self._send_head(head)
            await self._send(head.body)
            return
        if head.status == 101:
            await self._send_head(head)
            uploading = asyncio.create_task(self._upload(upstream))
            try:
                await self._download(upstream)
            finally:
                uploading.cancel()
                await asyncio.gather(uploading, return_exceptions=True)
            return
        # The end of the connection is the end of the body, whatever its length was said to be.
        await self._send_head(head)
        await self._download(upstream)

    async def _upload(self, upstream: Upstream) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            data = b"".join(self._held)
            self._held.clear()
            self._held_size = 0
            if data:
                await upstream.write(data)
            if self._paused and not self._transport.is_closing():
                self._paused = False
                self._transport.resume_reading()
            if self._ended and not self._held:
                upstream.end_writing()
                return

    async def _download(self, upstream: Upstream) -> None:
        while (piece := await upstream.piece()) is not None:
            await self._send(piece)

    async def _send_head(self, head: Head) -> None:
        headers = answer_headers(head)
        if head.status == 101:
            headers += [(name, value) for name, value in head.headers if name in (b"upgrade", b"connection")]
        else:
            headers.append((b"connection", b"close"))
        lines = [b"HTTP/1.1 %d %b\r\n" % (head.status, _phrase(head.status))]
        lines += [b"%b: %b\r\n" % header for header in headers]
        await self._send(b"".join([*lines, b"\r\n"]))

    async def _send(self, data: bytes) -> None:
        if data and not self._transport.is_closing():
            self._transport.write(data)
            await self._writable.wait()


def _phrase(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode("ascii")
    except ValueError:
        return b""
