"""What a sandbox uses and what its processes printed."""

from __future__ import annotations

from contextlib import aclosing
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.responses import JSONResponse, Response

from pandastackd.api.dependencies import ControlDep
from pandastackd.api.e2b.route import E2bCaller, E2bRoute
from pandastackd.api.e2b.sandboxes import shown
from pandastackd.api.wire import time_text
from pandastackd.control import Control, Principal
from pandastackd.errors import NotFound, PlatformError
from pandastackd.guest.types import Usage
from pandastackd.lifecycle import State

router = APIRouter(route_class=E2bRoute)

MOST_SANDBOXES = 100
MOST_LINES = 10_000


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


@router.get("/sandboxes/{sandbox_id}/logs")
async def logs(
    sandbox_id: str,
    control: ControlDep,
    caller: E2bCaller,
    limit: Annotated[int, Query(ge=0, le=MOST_LINES)] = 1000,
) -> Response:
    """The last lines that processes printed."""
    entries = await _entries(control, caller, sandbox_id, limit)
    lines = [{"timestamp": entry["timestamp"], "line": entry["message"]} for entry in entries]
    return JSONResponse({"logs": lines, "logEntries": entries})


@router.get("/v2/sandboxes/{sandbox_id}/logs")
async def logs_v2(
    sandbox_id: str,
    control: ControlDep,
    caller: E2bCaller,
    limit: Annotated[int, Query(ge=0, le=1000)] = 1000,
    direction: Literal["forward", "backward"] = "forward",
    search: str | None = None,
    level: Literal["debug", "info", "warn", "error"] = "debug",
) -> Response:
    """The last lines that processes printed, oldest first or newest first."""
    entries = await _entries(control, caller, sandbox_id, MOST_LINES)
    levels = ("debug", "info", "warn", "error")
    least = levels.index(level)
    entries = [
        entry
        for entry in entries
        if (search is None or search in entry["message"]) and levels.index(entry["level"]) >= least
    ]
    entries = entries[-limit:] if limit else []
    return JSONResponse({"logs": entries if direction == "forward" else entries[::-1]})


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


async def _entries(control: Control, caller: Principal, sandbox_id: str, limit: int) -> list[dict[str, Any]]:
    row = shown(await control.sandboxes.get(caller, sandbox_id))
    if row.state != State.RUNNING or limit == 0:
        return []
    entries = []
    try:
        async with (
            control.traffic.reach(row.id, only_asks=True) as guest,
            aclosing(guest.logs("both", False)) as lines,
        ):
            async for line in lines:
                entries.append(_entry(line.line, line.stream, line.time))
                # Lines are bounded in the guest; what it sends is bounded here.
                if len(entries) > 2 * limit:
                    del entries[:limit]
    except PlatformError as error:
        if not entries:
            raise
        entries.append(_entry(f"(cut off: {error.message})", "stderr", datetime.now(UTC).timestamp()))
    return entries[-limit:]


def _entry(message: str, stream: str, time: float) -> dict[str, Any]:
    return {
        "timestamp": time_text(datetime.fromtimestamp(time, UTC)),
        "message": message,
        "level": "error" if stream == "stderr" else "info",
        "fields": {"stream": stream},
    }
