"""Snapshots and forks. To these clients a snapshot is a template: it is created from and deleted as one."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import Field, StrictBool, StrictInt, StrictStr
from starlette.responses import JSONResponse, Response

from pandastackd.api.dependencies import ControlDep, body_of, json_body
from pandastackd.api.e2b import wire
from pandastackd.api.e2b.route import E2bCaller, E2bRoute
from pandastackd.api.e2b.sandboxes import page_after, page_token
from pandastackd.api.e2b.views import ViewsDep, shown
from pandastackd.api.wire import Request
from pandastackd.control import ForkRequest, SnapshotRow

router = APIRouter(route_class=E2bRoute)

MOST_LISTED = 100


class SnapshotBody(Request):
    """``POST …/snapshots``."""

    name: StrictStr | None = None
    memory: StrictBool | None = None


class ForkBody(Request):
    """``POST …/fork``. The children live ``timeout`` seconds."""

    timeout: Annotated[StrictInt, Field(ge=1)] = 300
    count: Annotated[StrictInt, Field(ge=1, le=20)] = 1


@router.post(
    "/sandboxes/{sandbox_id}/snapshots",
    status_code=201,
    openapi_extra=body_of(SnapshotBody, required=False),
)
async def take_snapshot(
    sandbox_id: str,
    body: Annotated[SnapshotBody, Depends(json_body(SnapshotBody))],
    control: ControlDep,
    caller: E2bCaller,
) -> Response:
    """Capture a sandbox, memory and all; it goes on."""
    if body.memory is False:
        raise wire.not_supported("memory=false (a snapshot of the disk alone)")
    shown(await control.sandboxes.get(caller, sandbox_id))
    return JSONResponse(_info(await control.snapshots.create(caller, sandbox_id, name=body.name)), 201)


@router.get("/snapshots")
async def list_snapshots(
    control: ControlDep,
    caller: E2bCaller,
    sandbox_id: Annotated[str | None, Query(alias="sandboxID")] = None,
    name: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = MOST_LISTED,
    next_token: Annotated[str | None, Query(alias="nextToken")] = None,
) -> Response:
    """The snapshots, newest first, a page at a time."""
    rows = [
        row
        for row in await control.snapshots.listed(caller, sandbox_id=sandbox_id)
        if name is None or name.removesuffix(":default") in (row.name, row.id)
    ]
    rows = page_after(rows, next_token)
    headers = {"x-next-token": page_token(rows[limit - 1])} if len(rows) > limit else {}
    return JSONResponse([_info(row) for row in rows[:limit]], headers=headers)


@router.delete("/templates/{snapshot_id}", status_code=204)
async def delete_snapshot(snapshot_id: str, control: ControlDep, caller: E2bCaller) -> Response:
    """Delete a snapshot, by id or name. The platform's own templates are nobody's to delete: 404."""
    found = await control.snapshots.find(caller, snapshot_id.removesuffix(":default"))
    await control.snapshots.delete(caller, found.id)
    return Response(status_code=204)


@router.post("/sandboxes/{sandbox_id}/fork", status_code=201, openapi_extra=body_of(ForkBody, required=False))
async def fork(
    sandbox_id: str,
    body: Annotated[ForkBody, Depends(json_body(ForkBody))],
    control: ControlDep,
    caller: E2bCaller,
    views: ViewsDep,
) -> Response:
    """Fork a sandbox into copies of its present instant; it goes on. Some of them may fail: each says why."""
    shown(await control.sandboxes.get(caller, sandbox_id))
    made = await control.forks.fork(
        caller, sandbox_id, ForkRequest(count=body.count, ttl_seconds=body.timeout)
    )
    results: list[dict[str, Any]] = [{"sandbox": views.handle(child)} for child in made.children]
    for failure in made.failures:
        error = {"code": 500, "message": failure["error"], "error_code": failure["code"]}
        results.append({"error": error})
    return JSONResponse(results, 201)


def _info(row: SnapshotRow) -> dict[str, Any]:
    return {"snapshotID": row.id, "names": [row.name] if row.name else []}
