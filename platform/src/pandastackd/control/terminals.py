"""Programs that are talked to while they run, in a terminal or over plain pipes.

None outlives its caller: one in a terminal is killed with all its children when the caller goes; one over pipes
first sees the end of its input and gets a moment to end well.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress

import structlog

from pandastackd.control.background import Background
from pandastackd.control.host import Guest
from pandastackd.errors import HostFailure, InvalidRequest, PlatformError
from pandastackd.guest.types import Command, Ended, Event, Output, Started

log = structlog.get_logger(__name__)

MAX_SIDE = 1000
"""Most rows or columns of a terminal."""

FAREWELL_SECONDS = 5.0
"""How long a program over pipes may go on after the end of its input, once nobody reads it any more."""

_SHELL = ("/bin/bash", "-l")


class Program:
    """A program that runs in a guest. One reader, one writer."""

    def __init__(self, guest: Guest, events: AsyncGenerator[Event], pid: int, *, terminal: bool) -> None:
        self._guest = guest
        self._events = events
        self.pid = pid
        self.terminal = terminal
        self.ended = False

    async def events(self) -> AsyncGenerator[Output | Ended]:
        """What it prints as it comes, then how it ended.

        Raises:
            PlatformError: the guest is lost, or breaks its protocol.
        """
        async for event in self._events:
            if isinstance(event, Ended):
                self.ended = True
                yield event
                return
            if isinstance(event, Output):
                yield event
        raise HostFailure("the guest lost the program: its end was never reported", code="guest_protocol")

    async def write(self, data: bytes) -> None:
        """Give it input; waits while it takes none.

        Raises:
            Conflict: it takes no more.
            NotFound: it has ended.
        """
        await self._guest.send_input(self.pid, data, pty=self.terminal)

    async def end_input(self) -> None:
        """Let it see the end of its input; in a terminal that is Ctrl-D."""
        if self.terminal:
            await self.write(b"\x04")
        else:
            await self._guest.close_stdin(self.pid)

    async def resize(self, size: tuple[int, int]) -> None:
        """Give its terminal another size: columns and rows.

        Raises:
            InvalidRequest: it runs in none, or the size makes no sense.
        """
        if not self.terminal:
            raise InvalidRequest("this program runs without a terminal, so it has no size")
        await self._guest.resize(self.pid, *checked_size(size))


class Terminals:
    """Starts programs to talk to."""

    def __init__(self, background: Background) -> None:
        self._background = background

    @asynccontextmanager
    async def open(
        self,
        guest: Guest,
        shell: str | None = None,
        *,
        size: tuple[int, int] | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> AsyncIterator[Program]:
        """Start ``shell`` by bash, or a login shell when there is none; it runs at most as long as the block.

        Args:
            size: columns and rows of the terminal it runs in; without, it has pipes.
            cwd: where it runs; the user's home by default.
            env: added to the sandbox's environment.
            user: who runs it; the sandbox's default user by default.

        Raises:
            InvalidRequest: the command is empty or holds NUL, the size makes no sense, or the guest has no such folder
                or user.
            HostFailure: the guest could not start it.
        """
        if shell is not None and (not shell.strip() or "\0" in shell):
            raise InvalidRequest("cmd is empty or holds a NUL character; send the shell command to run")
        tag = f"terminal-{secrets.token_hex(8)}"
        command = Command(
            args=_SHELL if shell is None else ("/bin/bash", "-c", shell),
            env={**({"TERM": "xterm-256color"} if size else {}), **(env or {})},
            cwd=cwd,
            user=user,
            stdin=size is None,
            pty=None if size is None else checked_size(size),
            tag=tag,
        )
        program: Program | None = None
        try:
            async with aclosing(guest.start(command)) as events:
                first = await anext(events)
                if not isinstance(first, Started):
                    raise HostFailure("the guest could not start the program", code="guest_protocol")
                program = Program(guest, events, first.pid, terminal=size is not None)
                yield program
        finally:
            if program is None or not program.ended:
                # A job of its own: this code may be running because the caller was cancelled.
                self._background.spawn(_end(guest, program, tag), name="end-program")


def checked_size(size: tuple[int, int]) -> tuple[int, int]:
    """Columns and rows that a terminal can have.

    Raises:
        InvalidRequest: they are out of range.
    """
    if not all(1 <= side <= MAX_SIDE for side in size):
        raise InvalidRequest(f"rows and cols must be from 1 to {MAX_SIDE}", code="invalid_size")
    return size


async def _end(guest: Guest, program: Program | None, tag: str) -> None:
    # Whatever goes wrong here means that the guest, or the program, is gone already.
    with suppress(PlatformError):
        pid = program.pid if program else await _pid_of(guest, tag)
        if program is not None and not program.terminal:
            with suppress(PlatformError):
                await guest.close_stdin(program.pid)
            if await _ends_by_itself(guest, tag):
                return
        if pid is not None:
            await guest.signal(pid, "SIGKILL")
            log.info("program.killed", pid=pid)


async def _ends_by_itself(guest: Guest, tag: str) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(FAREWELL_SECONDS):
            # Nothing of it is followed any more, so its end is not told: it must be asked for.
            while await _pid_of(guest, tag) is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.25)
            return True
    return False


async def _pid_of(guest: Guest, tag: str) -> int | None:
    return next((process.pid for process in await guest.processes() if process.tag == tag), None)
