"""A context: one kernel that keeps its variables from cell to cell, and the order in which its cells run."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path

from interpreter.kernel import Kernel, KernelDiedError, KernelFailedError
from interpreter.languages import Language
from interpreter.results import Event

INTERRUPT_SECONDS = 10.0
MOST_WAITING = 64
REPLACED = "The last cell did not heed its interrupt, so its kernel was replaced: the variables are gone.\n"
MACHINE_ID = Path("/etc/machine-id")


class TooManyCellsError(Exception):
    """As many cells wait for this kernel as may."""


class Context:
    """A kernel whose cells run one after the other.

    Args:
        identity: its id.
        language: of its kernel.
        cwd: the folder its kernel starts in.
        folder: where the kernel keeps its sockets.
    """

    def __init__(self, identity: str, language: Language, cwd: str, folder: Path) -> None:
        self.id = identity
        self.language = language
        self.cwd = cwd
        self._kernel = Kernel(language, cwd, folder)
        self._lock = asyncio.Lock()
        self._waiting = 0
        self._closed = False
        self._machine_id = machine_id()
        self._own_env: dict[str, str] = {}
        self._notice = ""

    def described(self) -> dict[str, str]:
        """The context as the API shows it."""
        return {"id": self.id, "language": self.language.name, "cwd": self.cwd}

    async def start(self) -> None:
        """Starts the kernel. Raises KernelFailedError."""
        await self._kernel.start()

    async def warm(self) -> None:
        """Brings into memory what most cells need, however long that takes on a busy host."""
        await self._kernel.run_silently(self.language.warm, seconds=None)

    async def close(self) -> None:
        """Ends the kernel and whatever runs in it."""
        self._closed = True
        await self._kernel.stop()

    async def restart(self) -> None:
        """Puts a fresh kernel in place of this one; a running cell is stopped first."""
        await self._kernel.interrupt()
        async with self._lock:
            await self._replace()

    async def execute(
        self, code: str, variables: Mapping[str, str], sandbox_env: Mapping[str, str]
    ) -> AsyncGenerator[Event]:
        """Runs a cell after those that came before; closed early, it interrupts the cell.

        Args:
            variables: the environment of this cell alone.
            sandbox_env: what the environment of the whole sandbox adds to the kernel's.

        Raises:
            TooManyCellsError: too many wait already.
            KernelDiedError: the kernel ended before the cell did; a fresh one is in its place.
        """
        if self._waiting >= MOST_WAITING:
            raise TooManyCellsError
        self._waiting += 1
        try:
            await self._lock.acquire()
        finally:
            self._waiting -= 1
        try:
            # Closed with us, and not at some later time by the collector: the lock is for its end as well.
            async with aclosing(self._turn(code, variables, sandbox_env)) as events:
                async for event in events:
                    yield event
        except KernelDiedError:
            await self._replace()
            raise
        finally:
            self._lock.release()

    async def _turn(
        self, code: str, variables: Mapping[str, str], sandbox_env: Mapping[str, str]
    ) -> AsyncGenerator[Event]:
        await self._become_unique()
        await self._adopt(sandbox_env)
        if variables:
            await self._set_env(variables)
        if self._notice:
            yield {"type": "stderr", "text": self._notice}
            self._notice = ""
        ended = False
        try:
            async with aclosing(self._kernel.cell(code)) as events:
                async for event in events:
                    yield event
            ended = True
        except KernelDiedError:
            ended = True
            raise
        finally:
            # The lock is kept until the kernel is free again: the next cell must not meet this one's remains.
            if not ended:
                await self._settle()
            if variables and await self._kernel.is_alive():
                known = {**os.environ, **self._own_env}
                await self._set_env({name: known.get(name) for name in variables})

    async def _settle(self) -> None:
        """After a cell was abandoned: interrupts it, and replaces a kernel that does not heed that."""
        try:
            await self._kernel.interrupt()
            await self._kernel.run_silently("", seconds=INTERRUPT_SECONDS)
        except (TimeoutError, KernelDiedError, KernelFailedError):
            await self._replace()
            self._notice = REPLACED

    async def _replace(self) -> None:
        await self._kernel.stop()
        if not self._closed:
            self._own_env = {}
            await self._kernel.start()

    async def _become_unique(self) -> None:
        """In a copy of the machine: siblings must not draw the same random numbers."""
        present = machine_id()
        if present != self._machine_id:
            await self._kernel.run_silently(self.language.reseed(secrets.randbits(48)))
            self._machine_id = present

    async def _adopt(self, sandbox_env: Mapping[str, str]) -> None:
        news = {name: value for name, value in sandbox_env.items() if self._own_env.get(name) != value}
        if news:
            await self._set_env(news)
            self._own_env.update(news)

    async def _set_env(self, values: Mapping[str, str | None]) -> None:
        await self._kernel.run_silently(self.language.set_env(values))


def machine_id() -> str:
    """What tells this machine from its siblings; empty where it has not been told yet."""
    try:
        return MACHINE_ID.read_text().strip()
    except OSError:
        return ""
