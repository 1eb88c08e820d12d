"""What a tool works with: who calls, the control plane, and the address under which the caller reached us."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any, Self

from mcp.server.mcpserver import Context
from starlette.requests import Request

from pandastackd.api.dependencies import control_of, metrics_of, settings_of
from pandastackd.control import Control, Principal
from pandastackd.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Desk:
    """One call's.

    Attributes:
        host: what sandboxes' host names hang under: the configured domain, or where the caller reached us.
        sandbox_id: the only sandbox the call may use, when it came by that sandbox's own address.
    """

    control: Control
    caller: Principal
    metrics: Metrics
    scheme: str
    host: str
    sandbox_id: str | None = None

    @classmethod
    def set_up(cls, request: Request, caller: Principal, sandbox_id: str | None = None) -> Self:
        """Put a desk where ``of`` finds it. ``caller`` was authenticated by the route."""
        name, port = request.url.hostname or "localhost", request.url.port
        host = settings_of(request).domain or (f"{_nameable(name)}:{port}" if port else _nameable(name))
        desk = cls(control_of(request), caller, metrics_of(request), request.url.scheme, host, sandbox_id)
        request.state.desk = desk
        return desk

    @staticmethod
    def of(context: Context[Any, Any]) -> Desk:
        """The desk of the call that ``context`` belongs to."""
        request = context.request_context.request
        assert isinstance(request, Request)  # noqa: S101 - all our transports are HTTP
        desk = request.state.desk
        assert isinstance(desk, Desk)  # noqa: S101 - put there by set_up
        return desk


def _nameable(host: str) -> str:
    """A name that others can hang under: ``*.localhost`` needs no DNS, and nothing hangs under a number."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.removeprefix("api.")
    return "localhost" if address.is_loopback else host
