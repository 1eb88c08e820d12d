"""What a sandbox's processes printed, a piece at a time. One that sleeps is not woken to be asked: it has no lines."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.responses import JSONResponse, Response

from pandastackd.api.dependencies import ControlDep
from pandastackd.api.e2b.route import E2bCaller, E2bRoute
from pandastackd.api.e2b.views import shown
from pandastackd.api.wire import time_text
from pandastackd.control import Control, SandboxRow
from pandastackd.errors import PlatformError
from pandastackd.guest.types import LogLine
from pandastackd.lifecycle import State

router = APIRouter(route_class=E2bRoute)

MOST_LINES = 1000
LEVELS = ("debug", "info", "warn", "error")

Limit = Annotated[int, Query(ge=0, le=MOST_LINES)]
Milliseconds = Annotated[int | None, Query(ge=0)]
Wanted = Callable[[dict[str, Any]], bool]


@router.get("/sandboxes/{sandbox_id}/logs")
async def logs(
    sandbox_id: str,
    control: ControlDep,
    caller: E2bCaller,
    start: Milliseconds = None,
    limit: Limit = MOST_LINES,
) -> Response:
    """The first lines since ``start``, in milliseconds since the epoch; without it, the last lines."""
    row = shown(await control.sandboxes.get(caller, sandbox_id))
    entries = await _entries(
        control, row, lambda entry: start is None or _time(entry) >= start, limit, newest=start is None
    )
    lines = [{"timestamp": entry["timestamp"], "line": entry["message"]} for entry in entries]
    return JSONResponse({"logs": lines, "logEntries": entries})


@router.get("/v2/sandboxes/{sandbox_id}/logs")
async def logs_v2(
    sandbox_id: str,
    control: ControlDep,
    caller: E2bCaller,
    cursor: Milliseconds = None,
    limit: Limit = MOST_LINES,
    direction: Literal["forward", "backward"] = "forward",
    search: str | None = None,
    level: Literal["debug", "info", "warn", "error"] = "debug",
) -> Response:
    """Lines from ``cursor`` on, oldest first, or back from it, newest first: in milliseconds since the epoch, itself
    included. Without a cursor, from the very first, or back from now.
    """
    row = shown(await control.sandboxes.get(caller, sandbox_id))
    forward = direction == "forward"

    def wanted(entry: dict[str, Any]) -> bool:
        return (
            (cursor is None or (_time(entry) >= cursor if forward else _time(entry) <= cursor))
            and (search is None or search in entry["message"])
            and LEVELS.index(entry["level"]) >= LEVELS.index(level)
        )

    entries = await _entries(control, row, wanted, limit, newest=not forward)
    return JSONResponse({"logs": entries if forward else entries[::-1]})


async def _entries(
    control: Control, row: SandboxRow, wanted: Wanted, limit: int, *, newest: bool
) -> list[dict[str, Any]]:
    """The first, or the newest, ``limit`` entries that are wanted, oldest first."""
    if row.state != State.RUNNING or limit == 0:
        return []
    # Lines are bounded in the guest; how many of them it sends is bounded here.
    kept: deque[dict[str, Any]] = deque(maxlen=limit)
    try:
        async with (
            control.traffic.reach(row.id, only_asks=True) as guest,
            aclosing(guest.logs("both", False)) as lines,
        ):
            async for line in lines:
                if wanted(entry := _entry(line)):
                    kept.append(entry)
                    if not newest and len(kept) == limit:
                        break
    except PlatformError as error:
        if not kept:
            raise
        cut_off = LogLine("stderr", f"(cut off: {error.message})", datetime.now(UTC).timestamp())
        kept.append(_entry(cut_off))
    return list(kept)


def _entry(line: LogLine) -> dict[str, Any]:
    return {
        "timestamp": time_text(datetime.fromtimestamp(line.time, UTC)),
        "message": line.line,
        "level": "error" if line.stream == "stderr" else "info",
        "fields": {"stream": line.stream},
    }


def _time(entry: dict[str, Any]) -> int:
    """When, in whole milliseconds: as clients see it, so that a cursor made from an entry finds that entry."""
    return round(datetime.fromisoformat(entry["timestamp"]).timestamp() * 1000)
