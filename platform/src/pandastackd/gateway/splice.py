"""WebSockets into a sandbox: the handshake is a request as any other, then bytes go both ways, unread.

The web server hands its applications messages, not bytes, so this takes the client's connection over from the
server itself and serves one request on it, which may leave HTTP (``UPGRADE``): routes, keys and refusals are those of
every other request. It is the last one: whatever the answer is, the connection ends with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import unquote

import httptools
import structlog
from starlette.types import ASGIApp, Message, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pandastackd.errors import PlatformError
from pandastackd.gateway.address import target_of
from pandastackd.gateway.exchange import UPGRADE

log = structlog.get_logger(__name__)

READ_AHEAD = 256 * 1024


def server_protocol(leads_to_a_port: Callable[[bytes], bool]) -> type[HttpToolsProtocol]:
    """uvicorn's HTTP protocol, but for upgrades that are for a sandbox's port: those are spliced.

    Args:
        leads_to_a_port: whether a path of the platform's own leads to one.
    """

    class Protocol(HttpToolsProtocol):
        def handle_websocket_upgrade(self) -> None:
            try:
                url = httptools.parse_url(self.url)
                path = unquote((url.path or b"/").decode("ascii"))
            except (httptools.HttpParserError, UnicodeDecodeError):
                self.send_400_response("Invalid HTTP request received.")
                return
            if not (_names_a_sandbox(self.headers) or leads_to_a_port(url.path or b"/")):
                super().handle_websocket_upgrade()
                return
            scope = {
                **self.scope,
                "path": path,
                "raw_path": url.path or b"/",
                "query_string": url.query or b"",
                "extensions": {UPGRADE: {}},
            }
            splice = Splice(self.app, scope, self.server_state.default_headers, self.connections)
            self.connections.discard(self)
            self.transport.set_protocol(splice)
            splice.connection_made(self.transport)
            task = self.loop.create_task(splice.run())
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    return Protocol


def _names_a_sandbox(headers: list[tuple[bytes, bytes]]) -> bool:
    try:
        return target_of(headers) is not None
    except PlatformError:
        # Not properly; the gateway says what is wrong.
        return True


class Splice(asyncio.Protocol):
    """A client's connection from its upgrade request to its end."""

    def __init__(
        self, app: Any, scope: Scope, default_headers: list[tuple[bytes, bytes]], connections: set[Any]
    ) -> None:
        self._app: ASGIApp = app
        self._scope = scope
        self._default_headers = default_headers
        self._connections = connections
        self._transport: asyncio.Transport
        self._held: list[bytes] = []
        self._held_size = 0
        self._ended = False
        self._told_end = False
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
        """Serve the request until either side is gone."""
        serving = asyncio.ensure_future(self._app(self._scope, self._receive, self._send))
        try:
            await asyncio.wait({serving, self._gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            serving.cancel()
            (fault,) = await asyncio.gather(serving, return_exceptions=True)
            if isinstance(fault, Exception):
                log.error("splice.fault", path=self._scope["path"], exc_info=fault)
            self._transport.close()

    async def _receive(self) -> Message:
        """What the client sends after its request."""
        while not (self._held or self._ended):
            self._changed.clear()
            await self._changed.wait()
        if self._told_end:
            await asyncio.wait({self._gone})
        if self._gone.done():
            return {"type": "http.disconnect"}
        data = b"".join(self._held)
        self._held.clear()
        self._held_size = 0
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()
        self._told_end = self._ended
        return {"type": "http.request", "body": data, "more_body": not self._ended}

    async def _send(self, message: Message) -> None:
        """The answer, as it is on the wire: the end of the connection is the end of the body."""
        if message["type"] == "http.response.start":
            status = message["status"]
            headers = [*self._default_headers, *message["headers"]]
            if status != HTTPStatus.SWITCHING_PROTOCOLS:
                headers.append((b"connection", b"close"))
            lines = [b"HTTP/1.1 %d %b\r\n" % (status, _phrase(status))]
            lines += [b"%b: %b\r\n" % header for header in headers]
            data = b"".join([*lines, b"\r\n"])
        else:
            data = message["body"]
        if data and not self._transport.is_closing():
            self._transport.write(data)
            await self._writable.wait()


def _phrase(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode("ascii")
    except ValueError:
        return b""
