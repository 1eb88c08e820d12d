"""`run_code`: a cell in a kernel of the sandbox, in amounts that a model can read."""

from __future__ import annotations

import re
import secrets
from contextlib import aclosing
from typing import Literal

from pydantic import Field

from pandastackd.api.mcp.desk import Desk
from pandastackd.api.mcp.guest_tools import (
    OUTPUT_BYTES,
    Ran,
    checked_seconds,
    note_of,
    printed_of,
    run_command,
)
from pandastackd.api.mcp.kept import Kept
from pandastackd.errors import CommandTimeout, InvalidRequest
from pandastackd.guest.interpreter import CellEnded, Printed, Raised, Shown

Language = Literal["python", "javascript", "typescript", "r", "java", "bash"]

_PROGRAMS: dict[Language, tuple[str, str]] = {
    "python": ("python3", "py"),
    "bash": ("bash", "sh"),
    "javascript": ("node", "js"),
}
"""What runs a language where there are no kernels, and how its files end."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_TEXTS = ("text/markdown", "text/plain", "application/json")
_DIED = "the kernel ended before the code did; a fresh one is in its place, and its variables are gone\n"


class CodeRan(Ran):
    """How code ended. An exception is exit code 1 and a traceback in stderr."""

    result: str | None = Field(default=None, description="the value of the last expression, as text")


async def run_code(
    desk: Desk, sandbox_id: str, code: str, language: Language, timeout_seconds: float
) -> CodeRan:
    """Run code in the sandbox's kernel of ``language``, or as a program of its own where there are no kernels.

    Raises:
        CommandTimeout: its time was up; with what it had printed.
        InvalidRequest: there is nothing in the sandbox that runs this language.
    """
    checked_seconds(timeout_seconds)
    try:
        context_id = await _context(desk, sandbox_id, language)
    except InvalidRequest as error:
        if error.code != "no_interpreter" or language not in _PROGRAMS:
            raise
        return await _run_program(desk, sandbox_id, code, language, timeout_seconds)
    return await _run_cell(desk, sandbox_id, context_id, code, timeout_seconds)


async def _context(desk: Desk, sandbox_id: str, language: Language) -> str:
    """The oldest kernel of the language: every call that asks finds the same one."""
    interpreters = desk.control.interpreters
    for context in await interpreters.contexts(desk.caller, sandbox_id):
        if context.language == language:
            return context.id
    return (await interpreters.open(desk.caller, sandbox_id, language, None)).id


async def _run_cell(
    desk: Desk, sandbox_id: str, context_id: str, code: str, timeout_seconds: float
) -> CodeRan:
    kept = {name: Kept(OUTPUT_BYTES) for name in ("stdout", "stderr", "result")}
    pictures: set[str] = set()
    failed = False
    cell = desk.control.interpreters.run(
        desk.caller, sandbox_id, context_id, code, timeout_seconds=timeout_seconds
    )
    try:
        async with aclosing(cell) as events:
            async for event in events:
                match event:
                    case Printed(stream, text):
                        kept[stream].feed(text.encode())
                    case Shown(data):
                        text = next((str(data[mime]) for mime in _TEXTS if mime in data), "")
                        kept["result"].feed(f"{text}\n".encode() if text else b"")
                        pictures |= {mime for mime in data if mime.startswith("image/")}
                    case Raised(name, value, traceback):
                        failed = True
                        said = _COLOURS.sub("", traceback) or f"{name}: {value}"
                        kept["stderr"].feed(f"{said}\n".encode())
                    case CellEnded(died=True):
                        failed = True
                        kept["stderr"].feed(_DIED.encode())
    except CommandTimeout as error:
        raise CommandTimeout(error.message + printed_of(kept)) from error
    shown = f"not sent: {', '.join(sorted(pictures))}; save it to a file, and read that" if pictures else None
    return CodeRan(
        exit_code=int(failed),
        stdout=kept["stdout"].text(),
        stderr=kept["stderr"].text(),
        result=kept["result"].text().removesuffix("\n") or None,
        note="; ".join(filter(None, (note_of(kept), shown))) or None,
    )


async def _run_program(
    desk: Desk, sandbox_id: str, code: str, language: Language, timeout_seconds: float
) -> CodeRan:
    program, suffix = _PROGRAMS[language]
    path = f".cell-{secrets.token_hex(8)}.{suffix}"
    async with desk.control.sandboxes.use(desk.caller, sandbox_id) as guest:
        await guest.write(path, code.encode())
    command = f"{program} {path}; code=$?; rm -f {path}; exit $code"
    ran = await run_command(desk, sandbox_id, command, timeout_seconds)
    return CodeRan(**ran.model_dump())
