"""Around every request: an id, an access log line, metrics, and an answer when we ourselves are at fault."""

from __future__ import annotations

import re
import secrets
import time

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pandastackd.api.errors import internal_error
from pandastackd.metrics import Metrics

log = structlog.get_logger("pandastackd.access")

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
CLIENT_GONE = 499
"""What the log says of a request whose client went away; nobody receives it."""


class Envelope:
    """ASGI middleware; outermost, so that nothing escapes it."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope).get("x-request-id", "")
        request_id = asked if _REQUEST_ID.fullmatch(asked) else f"req_{secrets.token_hex(8)}"
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "websocket.accept":
                status = 101
            elif message["type"] == "websocket.close":
                # Before it was accepted: what the server makes of it.
                status = status or 403
            elif message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                # Some addresses hold a token; no other site is to learn them.
                headers.setdefault("Referrer-Policy", "no-referrer")
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            status = CLIENT_GONE
        except Exception:
            log.exception("request.fault", request_id=request_id, path=scope["path"])
            if status == 0:
                await internal_error(request_id)(scope, receive, send_with_id)
            # Otherwise the answer stays incomplete, and the server cuts the connection: the client must
            # notice.
        finally:
            self._record(scope, status, time.perf_counter() - started, request_id)

    def _record(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        route = _route(scope)
        # The handshake of a WebSocket is a GET.
        asked = scope.get("method", "GET")
        method = asked if asked in _METHODS else "OTHER"
        self._metrics.request(method, route, status, seconds)
        # The path, never the query: it may carry a key or a file name.
        log.info(
            "request",
            method=method,
            path=scope["path"],
            status=status,
            ms=round(seconds * 1e3, 2),
            request_id=request_id,
        )


def _route(scope: Scope) -> str:
    """The template of the path; some versions of FastAPI leave the prefix of an included router out."""
    template: str = getattr(scope.get("route"), "path", "")
    if not template:
        return "none"
    prefix = "/v1" if scope["path"].startswith("/v1/") and not template.startswith("/v1/") else ""
    return prefix + template
