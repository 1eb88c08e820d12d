"""What can be done inside one sandbox, in amounts that a model can read."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from contextlib import aclosing
from typing import Literal

from pydantic import BaseModel, Field

from pandastackd.api.files import checked_path, file_entry
from pandastackd.api.mcp.desk import Desk
from pandastackd.api.mcp.kept import Kept
from pandastackd.errors import CommandTimeout, HostFailure, InvalidRequest
from pandastackd.guest.types import Ended, Output

OUTPUT_BYTES = 32 * 1024
"""Of each of stdout and stderr."""

READ_BYTES = 64 * 1024
MAX_READ_BYTES = 256 * 1024
MAX_ENTRIES = 1000
DEFAULT_TIMEOUT_SECONDS = 60.0
MAX_TIMEOUT_SECONDS = 3600.0


class Ran(BaseModel):
    """How a command ended. A non-zero exit code is a result, not an error of the tool."""

    exit_code: int
    stdout: str
    stderr: str
    note: str | None = Field(default=None, description="what was left out, if something was")


class FileContent(BaseModel):
    """A part of a file."""

    content: str
    encoding: Literal["utf-8", "base64"]
    size: int | None = Field(description="bytes in the whole file")
    next_offset: int | None = Field(description="where the rest begins; null at the end")


class Entry(BaseModel):
    """A file or folder."""

    name: str
    is_dir: bool
    size: int
    mode: str
    mtime: int


class Listing(BaseModel):
    """What is in a folder."""

    entries: list[Entry]
    note: str | None = None


async def run_command(desk: Desk, sandbox_id: str, command: str, timeout_seconds: float) -> Ran:
    """Run shell text to its end, or kill it when its time is up. Raises CommandTimeout with what it had printed."""
    checked_seconds(timeout_seconds)
    kept = {"stdout": Kept(OUTPUT_BYTES), "stderr": Kept(OUTPUT_BYTES)}
    try:
        async with desk.control.sandboxes.use(desk.caller, sandbox_id) as guest:
            follow = desk.control.commands.follow(guest, command, timeout_seconds=timeout_seconds)
            async with aclosing(follow) as events:
                async for event in events:
                    if isinstance(event, Output):
                        kept["stderr" if event.stream == "stderr" else "stdout"].feed(event.data)
                    elif isinstance(event, Ended):
                        return _ran(event.exit_code, kept)
    except CommandTimeout as error:
        raise CommandTimeout(error.message + printed_of(kept)) from error
    raise HostFailure("the guest lost the command: its end was never reported", code="guest_protocol")


async def read_file(desk: Desk, sandbox_id: str, path: str, offset: int, limit: int) -> FileContent:
    """A part of a file, as text where it is text."""
    wanted = min(limit, MAX_READ_BYTES)
    data = bytearray()
    passed = 0
    async with (
        desk.control.sandboxes.use(desk.caller, sandbox_id) as guest,
        guest.read(checked_path(path)) as file,
    ):
        size = file.size
        async for chunk in file.chunks:
            skipped = chunk[max(0, offset - passed) :]
            passed += len(chunk)
            data += skipped
            if len(data) > wanted:
                break
    more = len(data) > wanted
    piece = bytes(data[:wanted])
    text = _text(piece, cut=more)
    used = len(piece) if text is None else len(text.encode())
    return FileContent(
        content=base64.b64encode(piece).decode() if text is None else text,
        encoding="base64" if text is None else "utf-8",
        size=size,
        next_offset=offset + used if more else None,
    )


async def write_file(
    desk: Desk, sandbox_id: str, path: str, content: str, encoding: Literal["utf-8", "base64"]
) -> str:
    """Write a file; the folders above it are made."""
    try:
        data = content.encode() if encoding == "utf-8" else base64.b64decode(content, validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise InvalidRequest(f"content is not {encoding}: {error}", code="invalid_content") from None
    async with desk.control.sandboxes.use(desk.caller, sandbox_id) as guest:
        written = await guest.write(checked_path(path), data)
    return f"wrote {written.size} bytes to {path}"


async def list_files(desk: Desk, sandbox_id: str, path: str) -> Listing:
    """What is in a folder, at most ``MAX_ENTRIES``."""
    async with desk.control.sandboxes.use(desk.caller, sandbox_id) as guest:
        found = await guest.list_dir(checked_path(path))
    more = len(found) - MAX_ENTRIES
    return Listing(
        entries=[Entry.model_validate(file_entry(info)) for info in found[:MAX_ENTRIES]],
        note=f"{more} more; list with a command such as `ls | tail`" if more > 0 else None,
    )


def checked_seconds(timeout_seconds: float) -> None:
    """Raises InvalidRequest for more than a tool may take."""
    if timeout_seconds > MAX_TIMEOUT_SECONDS:
        raise InvalidRequest(f"timeout_seconds is at most {MAX_TIMEOUT_SECONDS:g}", code="invalid_timeout")


def printed_of(kept: Mapping[str, Kept]) -> str:
    """What there is of each output, as the end of a sentence."""
    return "".join(f"; its {name} was:\n{text.text()}\n" for name, text in kept.items() if text.text())


def note_of(kept: Mapping[str, Kept]) -> str | None:
    """What was left out of each output, if anything was."""
    left_out = [f"{text.left_out} bytes of {name}" for name, text in kept.items() if text.left_out]
    if not left_out:
        return None
    return f"left out: {', '.join(left_out)}; write output to a file and read it in parts"


def _ran(exit_code: int, kept: Mapping[str, Kept]) -> Ran:
    return Ran(
        exit_code=exit_code, stdout=kept["stdout"].text(), stderr=kept["stderr"].text(), note=note_of(kept)
    )


def _text(piece: bytes, *, cut: bool) -> str | None:
    """``piece`` as text, without a character that its end cuts in two; ``None`` when it is no text."""
    try:
        return piece.decode()
    except UnicodeDecodeError as error:
        if (
            cut
            and error.start > 0
            and len(piece) - error.start < 4
            and error.reason == "unexpected end of data"
        ):
            return piece[: error.start].decode()
        return None
