"""The Rust memory path: finds and copies the pages a guest has written, and digests sparse files.

The tool is started before the machine is paused and told when it is: starting a process costs more than the
copy.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pandastackd.errors import HostFailure, InsufficientStorage, PlatformError, VmmFailed
from pandastackd.vmm.driver import MemoryMapping

_MAX_LINE = 64 * 1024


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """What one capture of written pages did.

    Attributes:
        pages: pages written by the guest since it was restored; ``bytes`` of memory.
        zero_pages: those of them that hold nothing but zeros.
        runs: how many stretches of neighbouring pages they form.
    """

    pages: int = 0
    bytes: int = 0
    zero_pages: int = 0
    runs: int = 0
    scan_ms: float = 0.0
    copy_ms: float = 0.0


class ArmedCapture:
    """A capture that has checked everything and waits for the machine to be paused."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def fire(self) -> MemoryReport:
        """Copy the written pages; the machine must be paused until this returns.

        Raises:
            InsufficientStorage: the disk is full.
            VmmFailed: the VMM died meanwhile.
            HostFailure: anything else; the copy is worthless.
        """
        await _say(self._process, b"now\n")
        answer = await _answer(self._process)
        return MemoryReport(
            pages=answer["pages"],
            bytes=answer["bytes"],
            zero_pages=answer["zero_pages"],
            runs=answer["runs"],
            scan_ms=answer["scan_ms"],
            copy_ms=answer["copy_ms"],
        )


class MemoryTool:
    """The binary ``pandastack-memory`` at ``path``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @asynccontextmanager
    async def armed(self, mapping: MemoryMapping, out: Path, *, used: Path) -> AsyncIterator[ArmedCapture]:
        """A capture of ``mapping`` into ``out``, a clone of the mapped file, ready to
        :meth:`~ArmedCapture.fire`. The list of what the machine uses of the file is in ``used`` by then.

        Raises:
            The errors of :meth:`ArmedCapture.fire`.
        """
        process = await self._start(
            "capture",
            "--pid", str(mapping.pid),
            "--start", str(mapping.start),
            "--length", str(mapping.length),
            "--out", str(out),
            "--used", str(used),
            "--wait",
        )  # fmt: skip
        try:
            line = await _line(process)
            if line != b"ready\n":
                raise _failure(await process.wait(), line)
            yield ArmedCapture(process)
        finally:
            await _end(process)

    async def digest(self, path: Path) -> str:
        """Digest of a sparse file's content, the same for every layout of its holes.

        Raises:
            HostFailure: it cannot be read.
        """
        process = await self._start("digest", str(path))
        try:
            answer = await _answer(process)
            return str(answer["digest"])
        finally:
            await _end(process)

    async def _start(self, *arguments: str) -> Process:
        try:
            return await asyncio.create_subprocess_exec(
                self._path, *arguments, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, limit=_MAX_LINE
            )
        except OSError as error:
            raise HostFailure(
                f"cannot start {self._path}: {error.strerror}; run `make setup` to build it",
                code="memory_tool_missing",
            ) from error


async def _line(process: Process) -> bytes:
    return b"" if process.stdout is None else await process.stdout.readline()


async def _say(process: Process, word: bytes) -> None:
    if process.stdin is not None:
        # When the tool has ended already, its last words tell why.
        with contextlib.suppress(ConnectionError):
            process.stdin.write(word)
            await process.stdin.drain()


async def _answer(process: Process) -> dict[str, Any]:
    line = await _line(process)
    status = await process.wait()
    if status != 0 or not line:
        raise _failure(status, line)
    answer: dict[str, Any] = json.loads(line)
    return answer


def _failure(status: int, line: bytes) -> PlatformError:
    try:
        answer = json.loads(line)
        code, message = str(answer["code"]), str(answer["error"])
    except (ValueError, KeyError, TypeError):
        code, message = "", f"the memory tool ended with status {status} and said nothing"
    if code == "no_space":
        return InsufficientStorage(f"cannot capture memory: {message}; delete something or use a larger disk")
    if code == "target_gone":
        return VmmFailed(f"cannot capture memory: {message}")
    return HostFailure(
        f"cannot capture memory: {message}; nothing of it was kept", code="memory_capture_failed"
    )


async def _end(process: Process) -> None:
    """Leave no process behind, also when we are being cancelled."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await asyncio.shield(process.wait())
