"""How long a sandbox lives, pausing it, finding it again, and what its network may do."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import JSONResponse, Response

from pandastackd.api.dependencies import ControlDep, body_of, json_body
from pandastackd.api.e2b import wire
from pandastackd.api.e2b.route import E2bCaller, E2bRoute
from pandastackd.api.e2b.views import ViewsDep, shown
from pandastackd.control import Control, Principal, SandboxRow, TtlFrom
from pandastackd.errors import Conflict
from pandastackd.lifecycle import State

router = APIRouter(route_class=E2bRoute)

DEFAULT_TIMEOUT = 300

Connecting = Annotated[wire.ConnectBody, Depends(json_body(wire.ConnectBody))]


@router.post("/sandboxes/{sandbox_id}/connect", openapi_extra=body_of(wire.ConnectBody))
@router.post("/v2/sandboxes/{sandbox_id}/connect", openapi_extra=body_of(wire.ConnectBody))
async def connect(
    sandbox_id: str, body: Connecting, control: ControlDep, caller: E2bCaller, views: ViewsDep
) -> Response:
    """Find a sandbox again: 200 when it runs, and it lives ``timeout`` seconds more at least; 201 when it was paused
    and goes on, for ``timeout`` seconds.
    """
    body.check()
    row = shown(await control.sandboxes.get(caller, sandbox_id))
    if row.state != State.RUNNING:
        return JSONResponse(views.handle(await _go_on(control, caller, row, body)), 201)
    await control.sandboxes.prolong(row, _seconds(body.timeout))
    return JSONResponse(views.handle(row), 200)


@router.post("/sandboxes/{sandbox_id}/resume", status_code=201, openapi_extra=body_of(wire.ConnectBody))
async def resume(
    sandbox_id: str, body: Connecting, control: ControlDep, caller: E2bCaller, views: ViewsDep
) -> Response:
    """Let a paused sandbox go on; 409 when it is not paused."""
    body.check()
    row = shown(await control.sandboxes.get(caller, sandbox_id))
    if row.state == State.RUNNING:
        raise Conflict(f"sandbox {row.id} is running already", code="already_running")
    return JSONResponse(views.handle(await _go_on(control, caller, row, body)), 201)


@router.post(
    "/sandboxes/{sandbox_id}/pause", status_code=204, openapi_extra=body_of(wire.PauseBody, required=False)
)
async def pause(
    sandbox_id: str,
    body: Annotated[wire.PauseBody, Depends(json_body(wire.PauseBody))],
    control: ControlDep,
    caller: E2bCaller,
) -> Response:
    """Put a sandbox to sleep on disk, memory and all; 409 when it sleeps already. It goes on if that fails."""
    body.check()
    row = shown(await control.sandboxes.get(caller, sandbox_id))
    if row.state == State.HIBERNATED:
        raise Conflict(f"sandbox {row.id} is paused already", code="already_paused")
    await control.sandboxes.hibernate(caller, sandbox_id)
    return Response(status_code=204)


@router.post("/sandboxes/{sandbox_id}/timeout", status_code=204, openapi_extra=body_of(wire.TimeoutBody))
async def set_timeout(
    sandbox_id: str,
    body: Annotated[wire.TimeoutBody, Depends(json_body(wire.TimeoutBody))],
    control: ControlDep,
    caller: E2bCaller,
) -> Response:
    """Change when a sandbox ends, counted from now and whatever its use; 0 ends it, or puts it to sleep, at once."""
    row = shown(await control.sandboxes.get(caller, sandbox_id))
    await control.sandboxes.set_lifetime(
        row, ttl_seconds=_seconds(body.timeout), persistent=False, ttl_from=TtlFrom.SET
    )
    return Response(status_code=204)


@router.post(
    "/sandboxes/{sandbox_id}/refreshes",
    status_code=204,
    openapi_extra=body_of(wire.RefreshBody, required=False),
)
async def refresh(
    sandbox_id: str,
    body: Annotated[wire.RefreshBody, Depends(json_body(wire.RefreshBody))],
    control: ControlDep,
    caller: E2bCaller,
) -> Response:
    """Let a sandbox live at least ``duration`` seconds more."""
    row = shown(await control.sandboxes.get(caller, sandbox_id))
    await control.sandboxes.prolong(row, _seconds(body.duration or 0))
    return Response(status_code=204)


@router.put("/sandboxes/{sandbox_id}/network", status_code=204, openapi_extra=body_of(wire.NetworkUpdate))
async def set_network(
    sandbox_id: str,
    body: Annotated[wire.NetworkUpdate, Depends(json_body(wire.NetworkUpdate))],
    control: ControlDep,
    caller: E2bCaller,
) -> Response:
    """Change where a sandbox may connect to, as a whole and at once; what is left out is cleared."""
    body.check()
    shown(await control.sandboxes.get(caller, sandbox_id))
    await control.sandboxes.set_network(
        caller,
        sandbox_id,
        internet=body.allow_internet_access,
        allow_out=body.allow_out,
        deny_out=body.deny_out,
    )
    return Response(status_code=204)


async def _go_on(control: Control, caller: Principal, row: SandboxRow, body: wire.ConnectBody) -> SandboxRow:
    move = control.sandboxes.resume if row.state == State.PAUSED else control.sandboxes.wake
    row = await move(caller, row.id)
    if not row.persistent:
        seconds = _seconds(body.timeout)
        await control.sandboxes.set_lifetime(row, ttl_seconds=seconds, ttl_from=TtlFrom.SET)
    return row


def _seconds(timeout: int | None) -> int:
    """A timeout as a time to live; 0 is as little as there is."""
    return DEFAULT_TIMEOUT if timeout is None else max(1, timeout)
