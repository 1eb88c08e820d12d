"""The addresses of MCP: ``POST /mcp`` (also below ``/v1``) and one for each sandbox.

Nothing is remembered from one request to the next, so any process may answer any of them, and a call whose client
goes away ends there and then.
"""

from __future__ import annotations

from functools import cache

from fastapi import APIRouter, Depends, Request
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pandastackd.api.dependencies import Caller, ControlDep, SettingsDep, caller_of
from pandastackd.api.mcp.desk import Desk
from pandastackd.api.mcp.rate import Rate
from pandastackd.api.mcp.server import ToolServer
from pandastackd.api.mcp.tools import sandbox_server, workspace_server

MAX_BODY = 4 * 1024 * 1024
"""Bytes of one message: a file that is written comes as one."""

router = APIRouter(include_in_schema=False)
root_router = APIRouter(include_in_schema=False, dependencies=[Depends(caller_of)])

_workspace = cache(workspace_server)
_sandbox = cache(sandbox_server)


@root_router.post("/mcp")
@router.post("/mcp")
async def serve_workspace(request: Request, caller: Caller, settings: SettingsDep) -> Response:
    """Tools for the caller's workspace."""
    _rate(request, settings.mcp_calls_per_minute).take(caller.workspace)
    Desk.set_up(request, caller)
    return _Exchange(_workspace())


@router.post("/sandboxes/{sandbox_id}/mcp")
async def serve_sandbox(
    sandbox_id: str, request: Request, control: ControlDep, caller: Caller, settings: SettingsDep
) -> Response:
    """Tools for one sandbox."""
    _rate(request, settings.mcp_calls_per_minute).take(caller.workspace)
    row = await control.sandboxes.get(caller, sandbox_id)
    Desk.set_up(request, caller, row.id)
    return _Exchange(_sandbox())


class _Exchange(Response):
    """An answer that the library gives; it reads the body, bounded, by itself."""

    def __init__(self, server: ToolServer) -> None:
        self._server = server
        self.status_code = 200
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one message."""
        manager = StreamableHTTPSessionManager(
            self._server.protocol, stateless=True, max_request_body_size=MAX_BODY
        )
        async with manager.run():
            await manager.handle_request(scope, receive, send)


def _rate(request: Request, per_minute: int) -> Rate:
    state = request.app.state
    if not hasattr(state, "mcp_rate"):
        state.mcp_rate = Rate(per_minute)
    rate: Rate = state.mcp_rate
    return rate
