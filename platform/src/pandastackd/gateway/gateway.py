"""The gateway: an ASGI layer that carries sandboxes' traffic and hands everything else to the app behind it.

Both directions are streamed and nothing is collected. A client that goes away is noticed while the guest is
still at it, and the guest's connection is cut at once: what it was doing for that client ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from pandastackd.control import Traffic
from pandastackd.errors import Conflict, NotFound, PlatformError
from pandastackd.gateway import refusals
from pandastackd.gateway.address import Target, target_of
from pandastackd.gateway.connections import AGENT_PORT, Connections, Dialer
from pandastackd.gateway.headers import answer_headers, request_headers
from pandastackd.gateway.upstream import BrokenAnswer, Head, Upstream

log = structlog.get_logger(__name__)


class Refused(Exception):
    """The traffic cannot be carried; ``head`` is what the client is told."""

    def __init__(self, head: Head) -> None:
        super().__init__(head.status)
        self.head = head


@dataclass(frozen=True, slots=True)
class Way:
    """The way to a target: its guest, a connection to the port, and the ``Host`` to say there if not the client's."""

    guest: Dialer
    upstream: Upstream
    host: bytes | None


class Gateway:
    """Carries sandboxes' traffic.

    Args:
        traffic: finds a sandbox's guest and counts the use.
    """

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._connections = Connections()

    async def carry(self, target: Target, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request that is for a sandbox."""
        try:
            # Asking whether a sandbox lives must neither wake it nor make it live longer.
            only_asks = target.port == AGENT_PORT and scope["path"] == "/health"
            async with self.reach(target, only_asks=only_asks) as way:
                try:
                    await _Exchange(target, way, scope, receive, send).run()
                finally:
                    self._connections.give_back(way.guest, target.port, way.upstream)
        except Refused as refused:
            await send_whole(send, refused.head)

    @asynccontextmanager
    async def reach(self, target: Target, *, only_asks: bool = False) -> AsyncIterator[Way]:
        """A connection to the target, inside a block that counts as use of the sandbox.

        Raises:
            Refused: there is no way there; says what the client is told.
        """
        try:
            async with self._traffic.enter(
                target.sandbox_id,
                token=target.token,
                # The guest agent demands a token of its own.
                guarded=target.port != AGENT_PORT,
                only_asks=only_asks,
            ) as (guest, network):
                try:
                    upstream = await self._connections.open(guest, target.port)
                except NotFound:
                    raise Refused(refusals.no_port(target)) from None
                mask = network.mask_host
                yield Way(
                    guest, upstream, mask.replace("${PORT}", str(target.port)).encode() if mask else None
                )
        except (NotFound, Conflict) as error:
            raise Refused(refusals.no_sandbox(target, error)) from None
        except PlatformError as error:
            raise Refused(refusals.failed(target, error)) from None


class GatewayMiddleware:
    """ASGI middleware: what is for a sandbox goes there, everything else to ``app``."""

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            target = target_of(scope["headers"])
        except PlatformError as error:
            await send_whole(send, refusals.failed(None, error))
            return
        if target is None:
            await self._app(scope, receive, send)
        else:
            await self._gateway.carry(target, scope, receive, send)


class _Exchange:
    """One request and its answer."""

    def __init__(self, target: Target, way: Way, scope: Scope, receive: Receive, send: Send) -> None:
        self._target = target
        self._upstream = way.upstream
        self._host = way.host
        self._scope = scope
        self._receive = receive
        self._send = send
        self._uploaded = False
        self._answered = False

    async def run(self) -> None:
        uploading = asyncio.create_task(self._upload())
        try:
            await self._answer()
        except BrokenAnswer as error:
            log.info("gateway.broken_answer", path=self._scope["path"], reason=str(error))
            self._upstream.abort()
        finally:
            uploading.cancel()
            await asyncio.gather(uploading, return_exceptions=True)
            if not (self._uploaded and self._upstream.at_end()):
                self._upstream.abort()

    async def _upload(self) -> None:
        """Send the request, then wait for the client to go away: then the guest's connection is cut."""
        scope, upstream = self._scope, self._upstream
        headers, has_body, chunked = request_headers(scope["headers"], self._host)
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        if not has_body:
            upstream.begin(scope["method"], target, headers)
        begun = not has_body
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                # Also what comes once the answer is sent; then there is nothing left to cut.
                if not self._answered:
                    upstream.abort()
                return
            data, more = message.get("body", b""), message.get("more_body", False)
            if has_body:
                framed = _chunk(data, last=not more) if chunked else data
                if not begun:
                    begun = True
                    upstream.begin(scope["method"], target, headers, framed)
                elif framed:
                    await upstream.write(framed)
            if not more:
                self._uploaded = True

    async def _answer(self) -> None:
        upstream = self._upstream
        try:
            head = await upstream.head()
        except BrokenAnswer as error:
            await send_whole(self._send, refusals.broken(self._target, error))
            return
        if head.status == 101:
            upstream.abort()
            uninvited = BrokenAnswer("an upgrade that nobody asked for")
            await send_whole(self._send, refusals.broken(self._target, uninvited))
            return
        await self._send(
            {"type": "http.response.start", "status": head.status, "headers": answer_headers(head)}
        )
        while (piece := await upstream.piece()) is not None:
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        self._answered = True
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def send_whole(send: Send, head: Head) -> None:
    """Send an answer of the platform's own."""
    await send({"type": "http.response.start", "status": head.status, "headers": head.headers})
    await send({"type": "http.response.body", "body": head.body, "more_body": False})


def _chunk(data: bytes, *, last: bool) -> bytes:
    framed = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
    return framed + b"0\r\n\r\n" if last else framed
