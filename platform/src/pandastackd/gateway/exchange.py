"""One request to a port in a guest, and its answer.

Both directions are streamed and nothing is collected. A client that goes away is noticed while the guest is
still at it, and the guest's connection is cut at once: what it was doing for that client ends.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from starlette.types import Receive, Scope, Send

from pandastackd.gateway import refusals
from pandastackd.gateway.address import Target
from pandastackd.gateway.headers import RawHeaders, answer_headers, request_headers, upgrade_headers
from pandastackd.gateway.upstream import BrokenAnswer, Head, Upstream

log = structlog.get_logger(__name__)

UPGRADE: Final = "pandastack.upgrade"
"""ASGI extension of an HTTP request that asks to leave HTTP: where the answer is 101, the bodies of both
directions are the bare bytes of the connection, and the client's begins after the answer.
"""


class Exchange:
    """A request whose answer is HTTP."""

    def __init__(
        self,
        target: Target,
        upstream: Upstream,
        host: bytes | None,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        self._target = target
        self._upstream = upstream
        self._host = host
        self._scope = scope
        self._receive = receive
        self._send = send
        self._uploaded = False
        self._answered = False
        self._agreed = asyncio.Event()

    async def run(self) -> None:
        """Carry it to its end."""
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
        upstream = self._upstream
        headers, has_body, chunked = request_headers(self._scope["headers"], self._host)
        begun = not has_body
        if begun:
            self._begin(headers)
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
                    self._begin(headers, framed)
                elif framed:
                    await upstream.write(framed)
            if not more:
                self._uploaded = True

    def _begin(self, headers: RawHeaders, body: bytes = b"") -> None:
        query = self._scope["query_string"]
        url = self._scope["raw_path"] + (b"?" + query if query else b"")
        self._upstream.begin(self._scope["method"], url, headers, body)

    async def _answer(self) -> None:
        """Pass the answer on. Raises BrokenAnswer once it is too late to say so."""
        upstream = self._upstream
        try:
            head = await upstream.head()
            self._check(head.status)
        except BrokenAnswer as error:
            await send_whole(self._send, refusals.broken(self._target, error))
            return
        await self._send(
            {"type": "http.response.start", "status": head.status, "headers": answer_headers(head)}
        )
        while (piece := await upstream.piece()) is not None:
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        self._answered = True
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def _check(self, status: int) -> None:
        if status == 101:
            raise BrokenAnswer("an upgrade that nobody asked for")


class Upgrade(Exchange):
    """A request that asks to leave HTTP: once the guest agrees, bytes go both ways, unread.

    Until then nothing more of the client's is passed on: a guest that refuses would take it for requests.
    """

    async def _upload(self) -> None:
        self._begin(upgrade_headers(self._scope["headers"], self._host))
        await self._agreed.wait()
        while (message := await self._receive())["type"] != "http.disconnect":
            await self._upstream.write(message["body"])
            if not message["more_body"]:
                self._upstream.end_writing()
                return
        self._upstream.abort()

    def _check(self, status: int) -> None:
        if status == 101:
            self._agreed.set()


def exchange_of(
    target: Target, upstream: Upstream, host: bytes | None, scope: Scope, receive: Receive, send: Send
) -> Exchange:
    """The exchange of one request.

    Args:
        host: what the guest sees as ``Host``; ``None`` is what the client sent.
    """
    kind = Upgrade if UPGRADE in scope.get("extensions", {}) else Exchange
    return kind(target, upstream, host, scope, receive, send)


async def send_whole(send: Send, head: Head) -> None:
    """Send an answer of the platform's own."""
    await send({"type": "http.response.start", "status": head.status, "headers": head.headers})
    await send({"type": "http.response.body", "body": head.body, "more_body": False})


def _chunk(data: bytes, *, last: bool) -> bytes:
    framed = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
    return framed + b"0\r\n\r\n" if last else framed
