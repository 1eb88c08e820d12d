"""Code in kernels: contexts, which the published contract calls REPL sessions, and cells."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from pandastackd.api import sse
from pandastackd.api.dependencies import Caller, ControlDep, body_of, json_body
from pandastackd.api.streaming import Pump, unless_gone
from pandastackd.api.wire import (
    CellBody,
    CellInfo,
    ContextBody,
    ContextInfo,
    ExceptionInfo,
    LanguagesInfo,
    OnceBody,
)
from pandastackd.control import Control, Principal
from pandastackd.control.interpreters import LANGUAGES, TEMPLATE
from pandastackd.errors import PlatformError, TooLarge
from pandastackd.guest.interpreter import CellEnded, CellEvent, CodeContext, Printed, Raised, Shown

router = APIRouter(tags=["code"])

MAX_CELL = 32 * 1024 * 1024
"""Most characters that a cell may print and show when it is answered whole."""

DIED = Raised(
    "KernelDied",
    "the kernel ended before the cell did; a fresh one is in its place, and its variables are gone",
    "",
)

_SESSIONS = "/sandboxes/{sandbox_id}/repl/sessions"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")

Context = Annotated[ContextBody, Depends(json_body(ContextBody))]
Cell = Annotated[CellBody, Depends(json_body(CellBody))]
Once = Annotated[OnceBody, Depends(json_body(OnceBody))]


@router.get("/repl/languages", response_model=LanguagesInfo)
async def list_languages() -> dict[str, Any]:
    """The languages that there are kernels for, and the template that has them."""
    return {"languages": list(LANGUAGES), "default": LANGUAGES[0], "template": TEMPLATE}


@router.get(_SESSIONS, response_model=list[ContextInfo])
async def list_contexts(sandbox_id: str, control: ControlDep, caller: Caller) -> list[ContextInfo]:
    """All contexts of a sandbox, the oldest first."""
    return [_info(context) for context in await control.interpreters.contexts(caller, sandbox_id)]


@router.post(_SESSIONS, status_code=201, response_model=ContextInfo, openapi_extra=body_of(ContextBody))
async def open_context(
    sandbox_id: str, body: Context, request: Request, control: ControlDep, caller: Caller
) -> ContextInfo:
    """Start a kernel, which keeps its variables from cell to cell."""
    work = control.interpreters.open(caller, sandbox_id, body.language, body.cwd)
    return _info(await unless_gone(request, work))


@router.delete(_SESSIONS + "/{session_id}", status_code=204)
async def close_context(sandbox_id: str, session_id: str, control: ControlDep, caller: Caller) -> None:
    """End a kernel, and what runs in it."""
    await control.interpreters.close(caller, sandbox_id, session_id)


@router.post(_SESSIONS + "/{session_id}/restart", status_code=204)
async def restart_context(sandbox_id: str, session_id: str, control: ControlDep, caller: Caller) -> None:
    """Put a fresh kernel in place of one; what runs in it is stopped."""
    await control.interpreters.restart(caller, sandbox_id, session_id)


@router.post(_SESSIONS + "/{session_id}/run", response_model=CellInfo, openapi_extra=body_of(CellBody))
async def run_cell(
    sandbox_id: str, session_id: str, body: Cell, request: Request, control: ControlDep, caller: Caller
) -> CellInfo:
    """Run a cell and wait for its end. One that raises is a success of this call.

    It is stopped when its time is up (504), when it prints and shows more than 32 MiB (413), and when the caller
    goes away.
    """
    return await unless_gone(request, _collect(_events(control, caller, sandbox_id, session_id, body)))


@router.post(
    _SESSIONS + "/{session_id}/run/stream",
    response_class=Response,
    responses={
        200: {
            "content": {"text/event-stream": {}},
            "description": "Events: stdout, stderr, result, exception, exit, error",
        }
    },
    openapi_extra=body_of(CellBody),
)
async def stream_cell(
    sandbox_id: str, session_id: str, body: Cell, control: ControlDep, caller: Caller
) -> Response:
    """Run a cell and stream what it does: ``stdout``, ``stderr``, ``result`` and ``exception`` events, then ``exit``
    or ``error``.
    """
    return sse.event_stream(await Pump.open(_stream(_events(control, caller, sandbox_id, session_id, body))))


@router.post("/sandboxes/{sandbox_id}/repl", response_model=CellInfo, openapi_extra=body_of(OnceBody))
async def run_once(
    sandbox_id: str, body: Once, request: Request, control: ControlDep, caller: Caller
) -> CellInfo:
    """Run one cell in a kernel of its own, which ends with it."""

    async def once() -> CellInfo:
        async with control.interpreters.temporary(caller, sandbox_id, body.language) as context:
            return await _collect(_events(control, caller, sandbox_id, context.id, body))

    return await unless_gone(request, once())


def _events(
    control: Control, caller: Principal, sandbox_id: str, session_id: str, body: CellBody
) -> AsyncGenerator[CellEvent]:
    return control.interpreters.run(
        caller,
        sandbox_id,
        session_id,
        body.code,
        timeout_seconds=None if body.timeout_ms is None else body.timeout_ms / 1000,
        env=body.env,
    )


async def _collect(cell: AsyncGenerator[CellEvent]) -> CellInfo:
    began = time.perf_counter()
    printed: dict[str, list[str]] = {"stdout": [], "stderr": []}
    results: list[dict[str, str]] = []
    raised: Raised | None = None
    size = 0
    async with aclosing(cell) as events:
        async for event in events:
            match event:
                case Printed(stream, text):
                    printed[stream].append(text)
                    size += len(text)
                case Shown():
                    results.append(_bundle(event))
                    size += sum(map(len, results[-1].values()))
                case Raised():
                    raised = event
                case CellEnded(died=True):
                    raised = DIED
            if size > MAX_CELL:
                raise TooLarge(
                    f"the cell printed and showed more than {MAX_CELL >> 20} MiB, so it was stopped; stream it, or"
                    " write to a file",
                    code="output_too_large",
                )
    return CellInfo(
        stdout="".join(printed["stdout"]),
        stderr="".join(printed["stderr"]),
        exit=int(raised is not None),
        exit_code=int(raised is not None),
        error=_line(raised) if raised else None,
        exception=_exception(raised) if raised else None,
        results=results,
        duration_ms=round((time.perf_counter() - began) * 1e3),
    )


async def _stream(cell: AsyncGenerator[CellEvent]) -> AsyncGenerator[bytes]:
    began = time.perf_counter()
    begun = failed = False
    try:
        async with aclosing(cell) as events:
            async for event in events:
                begun = True
                match event:
                    case Printed(stream, text):
                        yield sse.event({"chunk": text}, stream)
                    case Shown(_, is_main):
                        yield sse.event({"data": _bundle(event), "is_main_result": is_main}, "result")
                    case Raised():
                        failed = True
                        yield sse.event(_exception(event).model_dump(), "exception")
                    case CellEnded(died):
                        if died:
                            failed = True
                            yield sse.event(_exception(DIED).model_dump(), "exception")
                        duration_ms = round((time.perf_counter() - began) * 1e3)
                        yield sse.event({"exit_code": int(failed), "duration_ms": duration_ms}, "exit")
    except PlatformError as error:
        if not begun:
            raise
        yield sse.event(sse.failure(error), "error")


def _info(context: CodeContext) -> ContextInfo:
    return ContextInfo(id=context.id, language=context.language, cwd=context.cwd)


def _bundle(shown: Shown) -> dict[str, str]:
    """By type, as text: one published client makes texts of all values, which would spoil what is JSON."""
    return {
        mime: value if isinstance(value, str) else json.dumps(value) for mime, value in shown.data.items()
    }


def _exception(raised: Raised) -> ExceptionInfo:
    return ExceptionInfo(name=raised.name, value=raised.value, traceback=_COLOURS.sub("", raised.traceback))


def _line(raised: Raised) -> str:
    return _COLOURS.sub("", raised.traceback) or f"{raised.name}: {raised.value}"
