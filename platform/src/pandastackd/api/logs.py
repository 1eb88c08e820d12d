"""What a sandbox's processes printed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Literal

from fastapi import APIRouter
from starlette.responses import Response

from pandastackd.api import sse
from pandastackd.api.dependencies import Caller, ControlDep
from pandastackd.api.streaming import Pump, Streamed
from pandastackd.control import Control, Principal
from pandastackd.errors import PlatformError

router = APIRouter(tags=["logs"])

Which = Literal["stdout", "stderr", "both"]


@router.get(
    "/sandboxes/{sandbox_id}/logs",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}, "text/event-stream": {}}, "description": "Lines"}},
)
async def get_logs(
    sandbox_id: str, control: ControlDep, caller: Caller, stream: Which = "both", follow: bool = False
) -> Response:
    """The lines that are kept, as text; with ``follow`` as events, and then those that are printed from
    now on.
    """
    if follow:
        return sse.event_stream(await Pump.open(_events(control, caller, sandbox_id, stream)))
    pump = await Pump.open(_lines(control, caller, sandbox_id, stream))
    return Streamed(pump, media_type="text/plain; charset=utf-8")


async def _lines(
    control: Control, caller: Principal, sandbox_id: str, stream: Which
) -> AsyncGenerator[bytes]:
    async with (
        control.sandboxes.use(caller, sandbox_id) as guest,
        aclosing(guest.logs(stream, False)) as lines,
    ):
        async for line in lines:
            yield f"{line.line}\n".encode("utf-8", "replace")
        yield b""  # an empty log has a first piece, too


async def _events(
    control: Control, caller: Principal, sandbox_id: str, stream: Which
) -> AsyncGenerator[bytes]:
    begun = False
    try:
        async with (
            control.sandboxes.use(caller, sandbox_id) as guest,
            aclosing(guest.logs(stream, True)) as lines,
        ):
            begun = True
            yield sse.OPENED
            async for line in lines:
                yield sse.event({"line": line.line, "stream": line.stream})
    except PlatformError as error:
        if not begun:
            raise
        yield sse.event({"error": error.message, "code": error.code}, "error")
