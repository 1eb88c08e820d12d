"""What a sandbox uses."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from pandastackd.api.dependencies import ControlDep
from pandastackd.api.e2b.route import E2bCaller, E2bRoute
from pandastackd.api.e2b.views import shown
from pandastackd.api.wire import time_text
from pandastackd.control import Control, Principal
from pandastackd.errors import NotFound
from pandastackd.guest.types import Usage
from pandastackd.lifecycle import State

router = APIRouter(route_class=E2bRoute)

MOST_SANDBOXES = 100


@router.get("/sandboxes/metrics")
async def many_metrics(control: ControlDep, caller: E2bCaller, sandbox_ids: str) -> Response:
    """What several sandboxes use just now; those that do not run are left out."""
    found: dict[str, Any] = {}
    for sandbox_id in dict.fromkeys(sandbox_ids.split(",")[:MOST_SANDBOXES]):
        try:
            if point := await _now(control, caller, sandbox_id):
                found[sandbox_id] = point
        except NotFound:
            continue
    return JSONResponse({"sandboxes": found})


@router.get("/sandboxes/{sandbox_id}/metrics")
async def metrics(
    sandbox_id: str, control: ControlDep, caller: E2bCaller, start: int | None = None, end: int | None = None
) -> Response:
    """What a sandbox uses just now: one point, since none is kept; none at all when it does not run."""
    point = await _now(control, caller, sandbox_id)
    if point is None:
        return JSONResponse([])
    moment = point["timestampUnix"]
    wanted = (start is None or start <= moment) and (end is None or moment <= end)
    return JSONResponse([point] if wanted else [])


async def _now(control: Control, caller: Principal, sandbox_id: str) -> dict[str, Any] | None:
    row = shown(await control.sandboxes.get(caller, sandbox_id))
    if row.state != State.RUNNING:
        return None
    async with control.traffic.reach(row.id, only_asks=True) as guest:
        usage = await guest.usage()
    return _point(usage)


def _point(usage: Usage) -> dict[str, Any]:
    return {
        "timestamp": time_text(datetime.fromtimestamp(usage.time, UTC)),
        "timestampUnix": usage.time,
        "cpuCount": usage.cpu_count,
        "cpuUsedPct": usage.cpu_used_percent,
        "memUsed": usage.memory_used,
        "memTotal": usage.memory_total,
        "memCache": usage.memory_cache,
        "diskUsed": usage.disk_used,
        "diskTotal": usage.disk_total,
    }
