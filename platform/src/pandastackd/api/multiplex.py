"""Many commands over one WebSocket, each under an id that the client chose."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing, suppress
from typing import Any

from fastapi import WebSocket
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.websockets import WebSocketDisconnect

from pandastackd.api import sse
from pandastackd.api.errors import invalid
from pandastackd.control import Commands, Guest
from pandastackd.errors import Conflict, InvalidRequest, PlatformError, RateLimited
from pandastackd.guest.types import Ended, Output

MAX_AT_ONCE = 32


class Ask(BaseModel):
    """One message of the client: start a command, or cancel it."""

    model_config = ConfigDict(extra="forbid")

    id: str | int = Field(union_mode="left_to_right")
    cmd: str | None = None
    timeout_seconds: float | None = None
    cancel: bool = False


class Multiplex:
    """Runs the commands of one socket; none outlives it."""

    def __init__(self, websocket: WebSocket, commands: Commands, guest: Guest) -> None:
        self._websocket = websocket
        self._commands = commands
        self._guest = guest
        self._running: dict[str | int, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Serve the client until it goes away. Raises PlatformError when it breaks the rules."""
        try:
            while (message := await self._websocket.receive())["type"] != "websocket.disconnect":
                ask = _read(message.get("text"))
                try:
                    await self._obey(ask)
                except PlatformError as error:
                    await self._say(ask.id, error=error.message, code=error.code)
        finally:
            tasks = list(self._running.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _obey(self, ask: Ask) -> None:
        if ask.cancel:
            if (task := self._running.pop(ask.id, None)) is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                message = "cancelled; it and all its children were killed"
                await self._say(ask.id, error=message, code="cancelled")
            return
        if ask.id in self._running:
            raise Conflict(f"a command with the id {ask.id!r} runs already; choose another", code="id_in_use")
        if len(self._running) >= MAX_AT_ONCE:
            raise RateLimited(f"at most {MAX_AT_ONCE} commands run at once over one socket")
        if ask.cmd is None:
            raise InvalidRequest("'cmd' is missing; send the shell command to run")
        self._running[ask.id] = asyncio.create_task(self._follow(ask.id, ask.cmd, ask.timeout_seconds))

    async def _follow(self, name: str | int, cmd: str, timeout_seconds: float | None) -> None:
        texts = sse.Texts()
        try:
            follow = self._commands.follow(self._guest, cmd, timeout_seconds=timeout_seconds)
            async with aclosing(follow) as events:
                async for event in events:
                    if isinstance(event, Output):
                        await self._print(name, event.stream, texts.feed(event.stream, event.data))
                    elif isinstance(event, Ended):
                        for stream in ("stdout", "stderr"):
                            await self._print(name, stream, texts.rest(stream))
                        await self._say(name, exit=event.exit_code)
        except PlatformError as error:
            await self._say(name, error=error.message, code=error.code)
        finally:
            if self._running.get(name) is asyncio.current_task():
                del self._running[name]

    async def _print(self, name: str | int, stream: str, data: dict[str, str] | None) -> None:
        if data is not None:
            exact = {"base64": data["base64"]} if "base64" in data else {}
            await self._say(name, stream=stream, data=data["chunk"], **exact)

    async def _say(self, name: str | int, **fields: Any) -> None:
        # Of a client that is gone `run` hears, and ends all commands.
        with suppress(WebSocketDisconnect):
            await self._websocket.send_text(json.dumps({"id": name, **fields}))


def _read(text: str | None) -> Ask:
    try:
        asked = json.loads(text or "")
    except (ValueError, RecursionError):
        raise InvalidRequest("a message must be JSON text", code="not_json") from None
    try:
        return Ask.model_validate(asked)
    except ValidationError as error:
        raise invalid(error) from None
