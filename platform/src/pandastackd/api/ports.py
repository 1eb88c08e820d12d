"""Ports: which are open, what they are called, and ways to reach one through the API's own address.

WebSockets go these ways too: their handshake is a request as any other.

A sandbox's pages are somebody's untrusted program. Served from the API's own origin they are kept apart from it: no
cookie and no key goes in, no cookie comes out, and the browser gives them an origin of their own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import parse_qsl, quote, urlencode

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from pandastackd.api.dependencies import Caller, ControlDep, body_of, gateway_of, json_body
from pandastackd.api.wire import PortBody, PortInfo, PreviewBody, PreviewInfo, time_text
from pandastackd.control import Port, checked_port
from pandastackd.gateway import Gateway, Target

router = APIRouter(tags=["ports"])
public = APIRouter()
"""Routes that need no key: the token in the path is one."""

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

_TO_A_PORT = re.compile(rb"/v1/(?:sandboxes/[^/]+/proxy|p)/.")

_SECRET = frozenset({b"authorization", b"cookie", b"x-api-key"})
_APART = (
    (
        b"content-security-policy",
        b"sandbox allow-downloads allow-forms allow-modals allow-popups allow-scripts",
    ),
    (b"cross-origin-resource-policy", b"cross-origin"),
)


def leads_to_a_port(path: bytes) -> bool:
    """Whether what is asked below this path is asked of a sandbox's port, and not of the platform."""
    return _TO_A_PORT.match(path) is not None


@router.get("/sandboxes/{sandbox_id}/ports", response_model=list[PortInfo])
async def list_ports(sandbox_id: str, request: Request, control: ControlDep, caller: Caller) -> Response:
    """Ports that something listens on, and those with a label."""
    found = await control.ports.listed(caller, sandbox_id)
    return JSONResponse([_info(request, sandbox_id, port) for port in found])


@router.post(
    "/sandboxes/{sandbox_id}/ports", status_code=201, response_model=PortInfo, openapi_extra=body_of(PortBody)
)
async def label_port(
    sandbox_id: str,
    body: Annotated[PortBody, Depends(json_body(PortBody))],
    request: Request,
    control: ControlDep,
    caller: Caller,
) -> Response:
    """Name a port. Nothing has to be opened: every port that something listens on is reachable."""
    port = await control.ports.label(caller, sandbox_id, body.port, body.label)
    return JSONResponse(_info(request, sandbox_id, port), 201)


@router.delete("/sandboxes/{sandbox_id}/ports/{port}", status_code=204)
async def unlabel_port(sandbox_id: str, port: int, control: ControlDep, caller: Caller) -> Response:
    """Take a port's name away."""
    await control.ports.unlabel(caller, sandbox_id, port)
    return Response(status_code=204)


@router.post(
    "/sandboxes/{sandbox_id}/preview", response_model=PreviewInfo, openapi_extra=body_of(PreviewBody)
)
@router.post(
    "/sandboxes/{sandbox_id}/preview-token", response_model=PreviewInfo, openapi_extra=body_of(PreviewBody)
)
async def create_preview(
    sandbox_id: str,
    body: Annotated[PreviewBody, Depends(json_body(PreviewBody))],
    request: Request,
    control: ControlDep,
    caller: Caller,
) -> Response:
    """An address that reaches one port without a key until its time is over, below ``paths`` if any are given."""
    token, preview = await control.previews.create(
        caller, sandbox_id, port=body.port, ttl_seconds=body.ttl_seconds, paths=body.paths
    )
    url = f"{_origin(request)}/v1/p/{token}/"
    return JSONResponse({"url": url, "token": token, "expires_at": time_text(preview.expires_at)})


@router.api_route(
    "/sandboxes/{sandbox_id}/proxy/{port}/{path:path}", methods=METHODS, include_in_schema=False
)
async def proxy(
    sandbox_id: str, port: int, path: str, request: Request, control: ControlDep, caller: Caller
) -> Response:
    """Whatever is asked, of a port of the caller's sandbox."""
    row = await control.sandboxes.get(caller, sandbox_id)
    lead = f"/v1/sandboxes/{sandbox_id}/proxy/{port}"
    target = Target(row.id, checked_port(port), control.tokens.traffic(row.id))
    return _Carried(gateway_of(request), target, lead, f"/{path}")


@public.api_route("/p/{token}/{path:path}", methods=METHODS, include_in_schema=False)
async def preview(token: str, path: str, request: Request, control: ControlDep) -> Response:
    """Whatever is asked, of the port that the token is for."""
    found = control.previews.read(token, f"/{path}")
    target = Target(found.sandbox_id, found.port, control.tokens.traffic(found.sandbox_id))
    return _Carried(gateway_of(request), target, f"/v1/p/{token}", f"/{path}")


class _Carried(Response):
    """An answer that the gateway gets from a sandbox."""

    def __init__(self, gateway: Gateway, target: Target, lead: str, path: str) -> None:
        self._gateway = gateway
        self._target = target
        self._lead = lead
        self._path = path
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Carry the request to the sandbox, without what is for the platform."""
        query = [(name, value) for name, value in parse_qsl(scope["query_string"].decode("latin-1"), True)]
        inner = {
            **scope,
            "path": self._path,
            "raw_path": quote(self._path, safe="/:@!$&'()*+,;=~-._").encode("ascii"),
            "query_string": urlencode([each for each in query if each[0] != "access_token"]).encode("ascii"),
            "headers": [header for header in scope["headers"] if header[0] not in _SECRET],
        }

        async def kept_apart(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": self._answer_headers(message["headers"])}
            await send(message)

        await self._gateway.carry(self._target, inner, receive, kept_apart)

    def _answer_headers(self, headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        kept = [header for header in headers if header[0].lower() not in _NOT_ANSWERED]
        return [*((name, self._located(name, value)) for name, value in kept), *_APART]

    def _located(self, name: bytes, value: bytes) -> bytes:
        """A redirect to a path of the sandbox stays below the address that leads to it."""
        if name.lower() == b"location" and value.startswith(b"/") and not value.startswith(b"//"):
            return self._lead.encode("ascii") + value
        return value


_NOT_ANSWERED = frozenset({b"set-cookie", b"service-worker-allowed", *(name for name, _ in _APART)})


def _info(request: Request, sandbox_id: str, port: Port) -> dict[str, Any]:
    return {
        "port": port.port,
        "label": port.label,
        "listening": port.listening,
        "source": "user" if port.labelled else "detected",
        "proxy_url": f"{_origin(request)}/v1/sandboxes/{sandbox_id}/proxy/{port.port}/",
    }


def _origin(request: Request) -> str:
    return str(request.base_url).rstrip("/")
