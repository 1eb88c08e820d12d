"""What sandboxes use and used. Asking wakes none, and counts as use of none."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import JSONResponse, Response

from pandastackd.api.dependencies import ControlDep
from pandastackd.api.e2b.route import E2bCaller, E2bRoute
from pandastackd.api.e2b.views import shown
from pandastackd.api.wire import time_text
from pandastackd.errors import InvalidRequest, NotFound
from pandastackd.guest.types import Usage

router = APIRouter(route_class=E2bRoute)

MOST_SANDBOXES = 100

Seconds = Annotated[int | None, Query(ge=0)]


@router.get("/sandboxes/metrics")
async def many_metrics(control: ControlDep, caller: E2bCaller, sandbox_ids: str) -> Response:
    """The newest point of several sandboxes; those that are gone, or were never looked at, are left out."""
    wanted = list(dict.fromkeys(filter(None, sandbox_ids.split(","))))
    if len(wanted) > MOST_SANDBOXES:
        raise InvalidRequest(f"sandbox_ids names {len(wanted)} sandboxes, at most {MOST_SANDBOXES}")
    found: dict[str, Any] = {}
    for sandbox_id in wanted:
        try:
            points = await control.sandboxes.metrics(caller, sandbox_id)
        except NotFound:
            continue
        if points:
            found[sandbox_id] = _point(points[-1])
    return JSONResponse({"sandboxes": found})


@router.get("/sandboxes/{sandbox_id}/metrics")
async def metrics(
    sandbox_id: str, control: ControlDep, caller: E2bCaller, start: Seconds = None, end: Seconds = None
) -> Response:
    """What a sandbox used between two moments, in seconds since the epoch; all that is kept, without them."""
    shown(await control.sandboxes.get(caller, sandbox_id))
    points = await control.sandboxes.metrics(caller, sandbox_id)
    return JSONResponse(
        [
            _point(point)
            for point in points
            if (start is None or start <= point.time) and (end is None or point.time <= end)
        ]
    )


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
