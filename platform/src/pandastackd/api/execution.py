"""Commands: run to the end and answered whole, or streamed as they print."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from pandastackd.api import sse
from pandastackd.api.dependencies import Caller, ControlDep, SettingsDep, body_of, json_body
from pandastackd.api.limits import check_env
from pandastackd.api.spool import Spool
from pandastackd.api.streaming import Pump, Streamed, unless_gone
from pandastackd.api.wire import ExecBody, ExecInfo
from pandastackd.control import Control, Guest, Principal
from pandastackd.errors import HostFailure, PlatformError
from pandastackd.guest.types import Ended, Event, Output, Started

router = APIRouter(tags=["exec"])

Body = Annotated[ExecBody, Depends(json_body(ExecBody))]


@router.post("/sandboxes/{sandbox_id}/exec", response_model=ExecInfo, openapi_extra=body_of(ExecBody))
async def run_command(
    sandbox_id: str, body: Body, request: Request, control: ControlDep, caller: Caller, settings: SettingsDep
) -> Response:
    """Run a shell command to its end. A non-zero exit code is a success of this call.

    The command is killed, with all its children, when its time is up (504), when it prints more than 1 GiB
    (413), and when the caller goes away.
    """
    began = time.perf_counter()
    with ExitStack() as stack:
        spool = stack.enter_context(Spool(settings.data_dir))
        exit_code = await unless_gone(request, _collect(control, caller, sandbox_id, body, spool))
        duration_ms = round((time.perf_counter() - began) * 1e3)
        if spool.is_small:
            return JSONResponse(
                {
                    "stdout": spool.text("stdout"),
                    "stderr": spool.text("stderr"),
                    "exit_code": exit_code,
                    "duration_ms": duration_ms,
                }
            )
        # From here the streamed answer owns the spool, and closes it.
        pump = await Pump.open(_whole(stack.pop_all(), spool, exit_code, duration_ms))
        return Streamed(pump, media_type="application/json")


@router.post(
    "/sandboxes/{sandbox_id}/exec/stream",
    response_class=Response,
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "Events: stdout, stderr, exit, error"}
    },
    openapi_extra=body_of(ExecBody),
)
async def stream_command(sandbox_id: str, body: Body, control: ControlDep, caller: Caller) -> Response:
    """Run a shell command and stream what it prints: ``stdout`` and ``stderr`` events, then ``exit`` or
    ``error``.
    """
    return sse.event_stream(await Pump.open(_events(control, caller, sandbox_id, body)))


async def _collect(control: Control, caller: Principal, sandbox_id: str, body: ExecBody, spool: Spool) -> int:
    async with (
        control.sandboxes.use(caller, sandbox_id) as guest,
        aclosing(_follow(control, guest, body)) as events,
    ):
        async for event in events:
            if isinstance(event, Output):
                await spool.write(event.stream, event.data)
            elif isinstance(event, Ended):
                return event.exit_code
    raise HostFailure("the guest lost the command: its end was never reported", code="guest_protocol")


def _follow(control: Control, guest: Guest, body: ExecBody) -> AsyncGenerator[Event]:
    env = body.env or {}
    check_env(env)
    return control.commands.follow(
        guest,
        body.cmd,
        timeout_seconds=body.timeout_seconds,
        cwd=body.cwd,
        env=env,
        user=body.user,
        stdin=None if body.stdin is None else body.stdin.encode("utf-8", "replace"),
    )


async def _whole(stack: ExitStack, spool: Spool, exit_code: int, duration_ms: int) -> AsyncGenerator[bytes]:
    with stack:
        for prefix, stream in ((b'{"stdout":"', "stdout"), (b'","stderr":"', "stderr")):
            yield prefix
            async for piece in spool.json_string(stream):
                yield piece
        yield b'","exit_code":%d,"duration_ms":%d}' % (exit_code, duration_ms)


async def _events(
    control: Control, caller: Principal, sandbox_id: str, body: ExecBody
) -> AsyncGenerator[bytes]:
    texts = sse.Texts()
    begun = False
    try:
        async with (
            control.sandboxes.use(caller, sandbox_id) as guest,
            aclosing(_follow(control, guest, body)) as events,
        ):
            async for event in events:
                match event:
                    case Started():
                        begun = True
                        yield sse.OPENED
                    case Output(stream, data):
                        name = "stderr" if stream == "stderr" else "stdout"
                        if chunk := texts.feed(name, data):
                            yield sse.event(chunk, name)
                    case Ended(exit_code):
                        for name in ("stdout", "stderr"):
                            if chunk := texts.rest(name):
                                yield sse.event(chunk, name)
                        yield sse.event({"exit_code": exit_code}, "exit")
                        return
        raise HostFailure("the guest lost the command: its end was never reported", code="guest_protocol")
    except PlatformError as error:
        if not begun:
            raise
        yield sse.event(sse.failure(error), "error")
