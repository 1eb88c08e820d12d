"""The gateway: an ASGI layer that carries sandboxes' traffic and hands everything else to the app behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from pandastackd.control import Traffic
from pandastackd.errors import Conflict, NotFound, PlatformError
from pandastackd.gateway import refusals
from pandastackd.gateway.address import Target, target_of
from pandastackd.gateway.connections import AGENT_PORT, Connections, Dialer
from pandastackd.gateway.exchange import exchange_of, send_whole
from pandastackd.gateway.upstream import Head, Upstream


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
        """Serve one HTTP request that is for a sandbox; one with the extension ``UPGRADE`` may leave HTTP."""
        try:
            # Asking whether a sandbox lives must neither wake it nor make it live longer.
            only_asks = target.port == AGENT_PORT and scope["path"] == "/health"
            async with self._reach(target, only_asks=only_asks) as way:
                try:
                    await exchange_of(target, way.upstream, way.host, scope, receive, send).run()
                finally:
                    self._connections.give_back(way.guest, target.port, way.upstream)
        except Refused as refused:
            await send_whole(send, refused.head)

    @asynccontextmanager
    async def _reach(self, target: Target, *, only_asks: bool) -> AsyncIterator[Way]:
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


def _only_names(target: Target, path: str) -> bool:
    """Whether a request is a call of the API that names the sandbox it is about by headers as well.

    E2B's Python client before 2.28 does that when it connects. The guest agent has no such address, and the API
    wants the caller's key as ever.
    """
    return target.port == AGENT_PORT and path == f"/sandboxes/{target.sandbox_id}/connect"


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
        if target is None or _only_names(target, scope["path"]):
            await self._app(scope, receive, send)
        else:
            await self._gateway.carry(target, scope, receive, send)
