"""Client of the code interpreter that a guest serves on port 49999: contexts, and cells as streams of events.

Whatever answers there is software of the sandbox's owner. What it says is bounded (lines, sizes, silence) and
typed, and what has no meaning to us is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Literal

from pandastackd.errors import NotFound
from pandastackd.guest.connect_protocol import Json, decode_json, encode_json
from pandastackd.guest.faults import clean, nonsense
from pandastackd.guest.transport import Channel, Connect, lines_of, read_bounded, refusal

PORT: Final = 49_999
MAX_LINE: Final = 32 * 1024 * 1024
"""Bytes of one event, such as a picture."""

MAX_SMALL: Final = 256 * 1024
"""Bytes of any other answer."""

SILENCE_SECONDS: Final = 60.0
START_SECONDS: Final = 300.0
"""A kernel may take this long to start, and says nothing meanwhile."""

MIME_TYPES: Final[Mapping[str, str]] = {
    "text": "text/plain",
    "html": "text/html",
    "markdown": "text/markdown",
    "latex": "text/latex",
    "svg": "image/svg+xml",
    "png": "image/png",
    "jpeg": "image/jpeg",
    "pdf": "application/pdf",
    "json": "application/json",
    "javascript": "application/javascript",
    "data": "e2b/data",
    "chart": "e2b/chart",
}
"""Field of a result → its type. Everything else comes in ``extra``, by its own type."""

_HEADERS = {b"Content-Type": b"application/json"}
_JSON_FIELDS = frozenset({"json", "data", "chart"})
_MOST_EXTRA = 32
_IDENTITY = re.compile(r"[A-Za-z0-9-]{1,64}")


@dataclass(frozen=True, slots=True)
class CodeContext:
    """A kernel that keeps its variables from cell to cell."""

    id: str
    language: str
    cwd: str


@dataclass(frozen=True, slots=True)
class Printed:
    """Text that a cell printed."""

    stream: Literal["stdout", "stderr"]
    text: str


@dataclass(frozen=True, slots=True)
class Shown:
    """Something that a cell showed: by type, text, or base64 of what is no text, or JSON."""

    data: Mapping[str, Any]
    is_main: bool


@dataclass(frozen=True, slots=True)
class Raised:
    """What ended a cell before its end."""

    name: str
    value: str
    traceback: str


@dataclass(frozen=True, slots=True)
class CellEnded:
    """The end of a cell; ``died`` if its kernel ended with it, and a fresh one is in its place."""

    died: bool = False


CellEvent = Printed | Shown | Raised | CellEnded


class Interpreter:
    """Client of one guest's interpreter. Each call has a connection of its own, which ends with it.

    Every method may raise GuestUnreachable, and HostFailure with code ``guest_protocol``.

    Args:
        connect: makes a connection to a port of the guest; raises NotFound where nothing listens.
    """

    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    async def contexts(self) -> list[CodeContext]:
        """All contexts. Raises NotFound where there is no interpreter."""
        answer = await self._call("list the contexts", "GET", "/contexts")
        try:
            rows = json.loads(answer)
        except (ValueError, RecursionError):
            raise nonsense("the list of contexts is not JSON") from None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise nonsense("the list of contexts is none")
        return [_context(row) for row in rows]

    async def open(self, language: str | None, cwd: str | None) -> CodeContext:
        """Start a kernel.

        Raises:
            NotFound: there is no interpreter.
            InvalidRequest: it knows no such language, or there is no such folder.
            RateLimited: there are too many already.
        """
        asked = {"language": language, "cwd": cwd}
        body = encode_json({key: value for key, value in asked.items() if value is not None})
        answer = await self._call("start a context", "POST", "/contexts", body, silence_seconds=START_SECONDS)
        return _context(decode_json(answer))

    async def close(self, context_id: str) -> None:
        """End a kernel. Raises NotFound."""
        await self._call("end the context", "DELETE", f"/contexts/{_checked(context_id)}")

    async def restart(self, context_id: str) -> None:
        """Put a fresh kernel in place of one. Raises NotFound."""
        target = f"/contexts/{_checked(context_id)}/restart"
        await self._call("restart the context", "POST", target, silence_seconds=START_SECONDS)

    async def run(
        self, context_id: str, code: str, env: Mapping[str, str] | None = None
    ) -> AsyncGenerator[CellEvent]:
        """Run a cell: any number of events, the last of which is ``CellEnded``. Closed early, it stops the cell.

        Raises:
            NotFound: there is no such context, or no interpreter.
            InvalidRequest, RateLimited: the interpreter does not take the cell.
        """
        message: Json = {"context_id": _checked(context_id), "code": code, "env_vars": dict(env or {})}
        channel = self._channel()
        try:
            async with channel.exchange(
                "POST", "/execute", headers=_HEADERS, body=encode_json(message)
            ) as response:
                if response.status != 200:
                    raise refusal("run the cell", response.status, await read_bounded(response, MAX_SMALL))
                async with aclosing(lines_of(response, "an event of a cell", MAX_LINE)) as lines:
                    async for line in lines:
                        if (event := _event(line)) is not None:
                            yield event
                        if isinstance(event, CellEnded):
                            return
            raise nonsense("a cell without an end")
        finally:
            await channel.aclose()

    async def _call(
        self,
        what: str,
        method: str,
        target: str,
        body: bytes = b"",
        *,
        silence_seconds: float | None = None,
    ) -> bytes:
        channel = self._channel()
        try:
            return await channel.collect(
                what, method, target, headers=_HEADERS, body=body, silence_seconds=silence_seconds
            )
        finally:
            await channel.aclose()

    def _channel(self) -> Channel:
        return Channel(self._connect, PORT, silence_seconds=SILENCE_SECONDS)


def _checked(context_id: str) -> str:
    if not _IDENTITY.fullmatch(context_id):
        raise NotFound(f"there is no context {clean(context_id)[:64]}")
    return context_id


def _context(row: Json) -> CodeContext:
    identity = row.get("id")
    if not isinstance(identity, str) or not _IDENTITY.fullmatch(identity):
        raise nonsense("a context without an id")
    return CodeContext(identity, clean(str(row.get("language", "")))[:64], clean(str(row.get("cwd", ""))))


def _event(line: bytes) -> CellEvent | None:
    """One line as an event; None for those that only show life, and those we do not know."""
    if not line.strip():
        return None
    try:
        # What JSON has no word for, such as NaN, would spoil the answer that it is passed on in.
        event = json.loads(line.decode("utf-8", "replace"), parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        raise nonsense("an event of a cell is not JSON") from None
    if not isinstance(event, dict):
        raise nonsense("an event of a cell is not an object")
    match event.get("type"):
        case "stdout" | "stderr" as stream:
            return Printed(stream, _text(event, "text"))
        case "result":
            return Shown(_shown(event), event.get("is_main_result") is True)
        case "error":
            return Raised(_text(event, "name"), _text(event, "value"), _text(event, "traceback"))
        case "end_of_execution":
            return CellEnded()
        case "unexpected_end_of_execution":
            return CellEnded(died=True)
    return None


def _shown(event: Json) -> dict[str, Any]:
    data = {}
    for field, mime in MIME_TYPES.items():
        value = event.get(field)
        if isinstance(value, str) or (value is not None and field in _JSON_FIELDS):
            data[mime] = value
    extra = event.get("extra")
    if isinstance(extra, dict):
        for mime, value in list(extra.items())[:_MOST_EXTRA]:
            data.setdefault(clean(mime)[:128], value)
    return data


def _text(event: Json, key: str) -> str:
    value = event.get(key)
    return value if isinstance(value, str) else ""
