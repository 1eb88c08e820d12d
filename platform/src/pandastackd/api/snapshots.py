"""Snapshots: memory, device state and disk of a sandbox at one instant. Create one's sandbox with ``from_snapshot``."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header
from starlette.responses import JSONResponse, Response

from pandastackd.api.dependencies import Caller, ControlDep, body_of, json_body, key_of
from pandastackd.api.wire import SnapshotBody, SnapshotInfo, time_text
from pandastackd.control import SnapshotRow

router = APIRouter(tags=["snapshots"])


@router.post(
    "/sandboxes/{sandbox_id}/snapshots",
    status_code=201,
    response_model=SnapshotInfo,
    openapi_extra=body_of(SnapshotBody, required=False),
)
async def create_snapshot(
    sandbox_id: str,
    body: Annotated[SnapshotBody, Depends(json_body(SnapshotBody))],
    control: ControlDep,
    caller: Caller,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Response:
    """Capture a running or paused sandbox, which goes on also when this fails. A hibernated one is woken first."""
    key = key_of(idempotency_key, f"snapshot {sandbox_id}", body)
    row = await control.snapshots.create(caller, sandbox_id, name=body.name, key=key)
    return JSONResponse(_info(row), 201)


@router.get("/snapshots", response_model=list[SnapshotInfo])
async def list_snapshots(control: ControlDep, caller: Caller, sandbox_id: str | None = None) -> Response:
    """The workspace's snapshots, newest first; with ``sandbox_id`` those of one sandbox, also of one that is gone."""
    found = await control.snapshots.listed(caller, sandbox_id=sandbox_id)
    return JSONResponse([_info(row) for row in found])


@router.get("/snapshots/{snapshot_id}", response_model=SnapshotInfo)
async def get_snapshot(snapshot_id: str, control: ControlDep, caller: Caller) -> Response:
    """One snapshot."""
    return JSONResponse(_info(await control.snapshots.get(caller, snapshot_id)))


@router.delete("/snapshots/{snapshot_id}", status_code=204)
async def delete_snapshot(snapshot_id: str, control: ControlDep, caller: Caller) -> Response:
    """Remove a snapshot. Sandboxes that were made from it go on: they have their own hold on its files."""
    await control.snapshots.delete(caller, snapshot_id)
    return Response(status_code=204)


def _info(row: SnapshotRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "sandbox_id": row.sandbox_id,
        "template": row.template,
        "name": row.name,
        "cpu": row.vcpus,
        "memory_mb": row.memory_mib,
        "size_bytes": row.size_bytes,
        "created_at": time_text(row.created_at),
        "workspace": row.workspace,
        "parent_pause_ms": row.parent_pause_ms,
        "capture_ms": row.capture_ms,
    }
