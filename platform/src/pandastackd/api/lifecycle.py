"""Moves between states, and how long a sandbox lives."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import JSONResponse, Response

from pandastackd.api.dependencies import Caller, ControlDep, body_of, json_body
from pandastackd.api.wire import (
    LifetimeBody,
    LifetimeInfo,
    Nothing,
    RollbackBody,
    SandboxInfo,
    sandbox_info,
)
from pandastackd.control import Lifetime

router = APIRouter(tags=["lifecycle"])

Empty = Annotated[Nothing, Depends(json_body(Nothing))]


@router.get("/sandboxes/{sandbox_id}/lifecycle")
async def get_lifecycle(sandbox_id: str, control: ControlDep, caller: Caller) -> LifetimeInfo:
    """How long a sandbox lives. Looking does not count as use."""
    return _info(await control.sandboxes.lifetime(caller, sandbox_id))


@router.patch("/sandboxes/{sandbox_id}/lifecycle", openapi_extra=body_of(LifetimeBody))
async def set_lifecycle(
    sandbox_id: str,
    body: Annotated[LifetimeBody, Depends(json_body(LifetimeBody))],
    control: ControlDep,
    caller: Caller,
) -> LifetimeInfo:
    """Change how long a sandbox lives, counted from now."""
    row = await control.sandboxes.get(caller, sandbox_id)
    changed = await control.sandboxes.set_lifetime(
        row, ttl_seconds=body.ttl_seconds, persistent=body.persistent
    )
    return _info(changed)


@router.post("/sandboxes/{sandbox_id}/pause", status_code=204, openapi_extra=body_of(Nothing, required=False))
async def pause_sandbox(sandbox_id: str, _body: Empty, control: ControlDep, caller: Caller) -> Response:
    """Freeze a sandbox in memory."""
    await control.sandboxes.pause(caller, sandbox_id)
    return Response(status_code=204)


@router.post(
    "/sandboxes/{sandbox_id}/resume", status_code=204, openapi_extra=body_of(Nothing, required=False)
)
async def resume_sandbox(sandbox_id: str, _body: Empty, control: ControlDep, caller: Caller) -> Response:
    """Let a paused sandbox go on."""
    await control.sandboxes.resume(caller, sandbox_id)
    return Response(status_code=204)


@router.post(
    "/sandboxes/{sandbox_id}/hibernate",
    response_model=SandboxInfo,
    openapi_extra=body_of(Nothing, required=False),
)
async def hibernate_sandbox(sandbox_id: str, _body: Empty, control: ControlDep, caller: Caller) -> Response:
    """Put a sandbox's memory to disk and end its machine. Its next use wakes it; looking at it does not."""
    return JSONResponse(sandbox_info(await control.sandboxes.hibernate(caller, sandbox_id)))


@router.post(
    "/sandboxes/{sandbox_id}/wake",
    response_model=SandboxInfo,
    openapi_extra=body_of(Nothing, required=False),
)
async def wake_sandbox(sandbox_id: str, _body: Empty, control: ControlDep, caller: Caller) -> Response:
    """Start a hibernated sandbox where it stopped; one that runs is awake already."""
    return JSONResponse(sandbox_info(await control.sandboxes.wake(caller, sandbox_id)))


@router.post(
    "/sandboxes/{sandbox_id}/rollback", response_model=SandboxInfo, openapi_extra=body_of(RollbackBody)
)
async def rollback_sandbox(
    sandbox_id: str,
    body: Annotated[RollbackBody, Depends(json_body(RollbackBody))],
    control: ControlDep,
    caller: Caller,
) -> Response:
    """Return a sandbox, under the same id, to what it was at a snapshot. If that fails it goes on as it was."""
    return JSONResponse(sandbox_info(await control.sandboxes.rollback(caller, sandbox_id, body.snapshot_id)))


def _info(lifetime: Lifetime) -> LifetimeInfo:
    return LifetimeInfo(
        ttl_seconds=lifetime.ttl_seconds,
        persistent=lifetime.persistent,
        idle_seconds=lifetime.idle_seconds,
    )
