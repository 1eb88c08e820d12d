"""Programs to talk to, over WebSockets: a shell or a command in a terminal, a command over pipes, many commands.

Of the first three, a binary message is input one way and output the other. Text messages are JSON: the client's
``{"resize": {"rows", "cols"}}`` and ``{"eof": true}``; ours ``{"stderr"}`` (over pipes only), and at the end
``{"exit"}`` or ``{"error", "code", "status"}``. Whatever fails before the program runs is an ordinary error answer to
the handshake.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import Any

from fastapi import APIRouter, WebSocket
from pydantic import ValidationError
from starlette.datastructures import QueryParams
from starlette.websockets import WebSocketDisconnect, WebSocketState

from pandastackd.api import sse
from pandastackd.api.dependencies import control_of, presented_key
from pandastackd.api.errors import error_response, invalid, request_id_of
from pandastackd.api.limits import check_env
from pandastackd.api.multiplex import Multiplex
from pandastackd.api.wire import ProgramQuery
from pandastackd.control import Control, Principal, Program
from pandastackd.errors import Conflict, GuestUnreachable, InvalidRequest, NotFound, PlatformError
from pandastackd.guest.types import Ended
from pandastackd.lifecycle import State

router = APIRouter()

ROWS, COLS = 24, 80
NORMAL, POLICY, FAILED = 1000, 1008, 1011
"""Codes that a WebSocket is closed with: all went well, the client broke the rules, we or the guest failed."""

Serve = Callable[[WebSocket, Control, Principal], Awaitable[None]]


@router.websocket("/sandboxes/{sandbox_id}/ssh")
async def shell(websocket: WebSocket, sandbox_id: str) -> None:
    """A login shell in a terminal of ``rows`` and ``cols``."""

    async def serve(websocket: WebSocket, control: Control, caller: Principal) -> None:
        size = _size(websocket.query_params)
        await _talk(websocket, control, caller, sandbox_id, ProgramQuery(), size)

    await _guarded(websocket, sandbox_id, serve)


@router.websocket("/sandboxes/{sandbox_id}/exec/pty")
async def command_in_terminal(websocket: WebSocket, sandbox_id: str) -> None:
    """The shell command ``cmd``, or a login shell, in a terminal of ``rows`` and ``cols``; see ``ProgramQuery``."""

    async def serve(websocket: WebSocket, control: Control, caller: Principal) -> None:
        query = websocket.query_params
        asked = _asked(query, but={"rows", "cols"})
        await _talk(websocket, control, caller, sandbox_id, asked, _size(query))

    await _guarded(websocket, sandbox_id, serve)


@router.websocket("/sandboxes/{sandbox_id}/exec/stdio")
async def command_over_pipes(websocket: WebSocket, sandbox_id: str) -> None:
    """The shell command ``cmd`` over pipes, byte for byte: what tunnels are made of; see ``ProgramQuery``."""

    async def serve(websocket: WebSocket, control: Control, caller: Principal) -> None:
        asked = _asked(websocket.query_params)
        if asked.cmd is None:
            raise InvalidRequest("'cmd' is missing; send the shell command to run")
        await _talk(websocket, control, caller, sandbox_id, asked, None)

    await _guarded(websocket, sandbox_id, serve)


@router.websocket("/sandboxes/{sandbox_id}/exec/ws")
async def many_commands(websocket: WebSocket, sandbox_id: str) -> None:
    """Any number of commands over one socket.

    ``{id, cmd, timeout_seconds?}`` starts one, ``{id, cancel: true}`` kills it. Answers are ``{id, stream, data}``
    (and ``base64``, where the bytes are no text), then ``{id, exit}`` or ``{id, error, code}``.
    """

    async def serve(websocket: WebSocket, control: Control, caller: Principal) -> None:
        async with control.sandboxes.use(caller, sandbox_id) as guest:
            await websocket.accept()
            await Multiplex(websocket, control.commands, guest).run()

    await _guarded(websocket, sandbox_id, serve)


async def _guarded(websocket: WebSocket, sandbox_id: str, serve: Serve) -> None:
    """Serve a caller that shows a key; what goes wrong is told by an HTTP answer, or in the socket once it is open."""
    control = control_of(websocket)
    caller: Principal | None = None
    try:
        caller = await control.keys.authenticate(presented_key(websocket, in_query=True))
        await serve(websocket, control, caller)
    except WebSocketDisconnect:
        return
    except PlatformError as error:
        if websocket.application_state is WebSocketState.CONNECTING:
            await websocket.send_denial_response(error_response(error, request_id_of(websocket)))
            return
        told = await _explained(control, caller, sandbox_id, error)
        message = {"error": told.message, "code": told.code, "status": told.http_status}
        await _close(websocket, message, POLICY if told.http_status < 500 else FAILED)


async def _explained(
    control: Control, caller: Principal | None, sandbox_id: str, error: PlatformError
) -> PlatformError:
    """``error``, or why the guest went silent, where that is known: it was deleted, paused, hibernated."""
    if caller is None or not isinstance(error, GuestUnreachable | NotFound):
        return error
    deleted = NotFound(f"sandbox {sandbox_id} was deleted", code="sandbox_deleted")
    try:
        row = await control.sandboxes.get(caller, sandbox_id)
    except NotFound:
        return deleted
    if row.state == State.RUNNING:
        return error
    if row.state == State.STOPPING:
        return deleted
    return Conflict(
        f"sandbox {sandbox_id} is {row.state}; what ran in this terminal is not attached any more",
        code="not_running",
    )


async def _talk(
    websocket: WebSocket,
    control: Control,
    caller: Principal,
    sandbox_id: str,
    asked: ProgramQuery,
    size: tuple[int, int] | None,
) -> None:
    how: dict[str, Any] = {"cwd": asked.cwd, "env": asked.env, "user": asked.user}
    async with (
        control.sandboxes.use(caller, sandbox_id) as guest,
        control.terminals.open(guest, asked.cmd, size=size, **how) as program,
    ):
        await websocket.accept()
        sending = asyncio.create_task(_send(websocket, program))
        receiving = asyncio.create_task(_receive(websocket, program))
        tasks = (sending, receiving)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if receiving.done() and not sending.done():
                receiving.result()  # the client is gone, or broke the rules
                return
            exit_code = sending.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await _close(websocket, {"exit": exit_code}, NORMAL)


async def _send(websocket: WebSocket, program: Program) -> int:
    """Output to the client; waits while the client takes none, and so does the program then. The exit code."""
    texts = sse.Texts()
    async for event in program.events():
        if isinstance(event, Ended):
            if (rest := texts.rest("stderr")) is not None:
                await _send_stderr(websocket, rest)
            return event.exit_code
        if event.stream != "stderr":
            await websocket.send_bytes(event.data)
        elif (data := texts.feed("stderr", event.data)) is not None:
            await _send_stderr(websocket, data)
    raise AssertionError("a program's events close with its end")


async def _send_stderr(websocket: WebSocket, data: dict[str, str]) -> None:
    exact = {"base64": data["base64"]} if "base64" in data else {}
    await websocket.send_text(json.dumps({"stderr": data["chunk"], **exact}))


async def _receive(websocket: WebSocket, program: Program) -> None:
    """Input from the client, until it goes away."""
    while (message := await websocket.receive())["type"] != "websocket.disconnect":
        try:
            if (data := message.get("bytes")) is not None:
                await program.write(data)
            else:
                await _obey(program, message.get("text") or "")
        except (Conflict, NotFound):
            # It reads no more, or has just ended: that it says itself.
            continue


async def _obey(program: Program, text: str) -> None:
    try:
        asked = json.loads(text)
    except (ValueError, RecursionError):
        asked = None
    match asked:
        case {"resize": {"rows": int(rows), "cols": int(cols)}}:
            await program.resize((cols, rows))
        case {"eof": True}:
            await program.end_input()
        case _:
            raise InvalidRequest(
                'a text message must be {"resize": {"rows", "cols"}} or {"eof": true}; input comes as binary',
                code="invalid_message",
            )


async def _close(websocket: WebSocket, message: dict[str, Any], code: int) -> None:
    # A client that is gone already has no use for it.
    with suppress(Exception):
        await websocket.send_text(json.dumps(message))
        await websocket.close(code)


def _asked(query: QueryParams, but: AbstractSet[str] = frozenset()) -> ProgramQuery:
    """What a query asks for. Raises InvalidRequest, also for what no program is started with."""
    fields: dict[str, Any] = {
        name: value for name, value in query.items() if name not in {"access_token", *but}
    }
    if "env" in fields:
        fields["env"] = dict(each.partition("=")[::2] for each in query.getlist("env"))
        check_env(fields["env"])
    try:
        return ProgramQuery.model_validate(fields)
    except ValidationError as error:
        raise invalid(error) from None


def _size(query: QueryParams) -> tuple[int, int]:
    try:
        return int(query.get("cols", COLS)), int(query.get("rows", ROWS))
    except ValueError:
        raise InvalidRequest("rows and cols must be numbers", code="invalid_size") from None
