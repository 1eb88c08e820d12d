"""Commands in a guest: followed to their end, or killed with all their children.

A command never outlives the call that started it: it ends by itself, by its timeout, or because its caller
went away or took too much output.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress

import structlog

from pandastackd.control.background import Background
from pandastackd.control.host import Guest
from pandastackd.errors import CommandTimeout, Conflict, HostFailure, InvalidRequest, NotFound, PlatformError
from pandastackd.guest.types import Command, Ended, Event, Started

log = structlog.get_logger(__name__)

MAX_TIMEOUT_SECONDS = 86_400.0
"""Also the limit of a command that asks for none."""


class Commands:
    """Runs shell commands."""

    def __init__(self, background: Background) -> None:
        self._background = background

    async def follow(
        self,
        guest: Guest,
        shell: str,
        *,
        timeout_seconds: float | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        stdin: bytes | None = None,
    ) -> AsyncGenerator[Event]:
        """Run ``shell`` by bash: one ``Started``, any ``Output``, one ``Ended``.

        No login shell: reading the profile would cost every command more than most commands take. Closing the
        generator early kills the command.

        Args:
            cwd: where it runs; the user's home by default.
            env: added to the sandbox's environment.
            user: who runs it; the sandbox's default user by default.
            stdin: what it reads; without, its stdin is empty.

        Raises:
            InvalidRequest: the command is empty or holds NUL, the timeout is out of range, or the guest has no such
                folder or user.
            CommandTimeout: its time was up; it and all its children were killed.
            HostFailure: the guest could not run it.
        """
        limit = checked_timeout(timeout_seconds)
        if not shell.strip():
            raise InvalidRequest("cmd is empty; send the shell command to run")
        if "\0" in shell:
            raise InvalidRequest("cmd holds a NUL character, which no shell can take")
        tag = f"exec-{secrets.token_hex(8)}"
        command = Command(
            args=("/bin/bash", "-c", shell),
            env=env or {},
            cwd=cwd,
            user=user,
            stdin=stdin is not None,
            timeout_seconds=limit,
            tag=tag,
        )
        pid: int | None = None
        ended = False
        try:
            async with aclosing(_fed(guest, command, stdin)) as events:
                async for event in events:
                    if isinstance(event, Started):
                        pid = event.pid
                    elif isinstance(event, Ended):
                        ended = True
                        if event.error and event.exit_code < 0:
                            raise HostFailure(f"the guest could not run the command: {event.error}")
                    yield event
        except CommandTimeout as error:
            raise CommandTimeout(
                f"command timed out after {limit:g}s: deadline exceeded;"
                " it and all its children were killed; give it a larger timeout_seconds"
            ) from error
        except PlatformError:
            ended = ended or pid is None
            raise
        finally:
            if not ended:
                # A job of its own: this code may be running because the caller was cancelled.
                self._background.spawn(_kill(guest, pid, tag), name="kill-command")


def checked_timeout(asked: float | None, *, field: str = "timeout_seconds", unit: float = 1) -> float:
    """The time a command or a cell gets, in seconds.

    Args:
        field: what the caller calls it, and ``unit`` how many of its units a second has.

    Raises:
        InvalidRequest: it is not above 0 and at most a day.
    """
    if asked is None:
        return MAX_TIMEOUT_SECONDS
    if not 0 < asked <= MAX_TIMEOUT_SECONDS:
        raise InvalidRequest(
            f"{field} must be above 0 and at most {MAX_TIMEOUT_SECONDS * unit:g}, not {asked * unit:g}",
            code="invalid_timeout",
        )
    return asked


async def _fed(guest: Guest, command: Command, stdin: bytes | None) -> AsyncGenerator[Event]:
    """The events of a command that is given its input beside its output: it may print before it has read all."""
    feeding: asyncio.Task[None] | None = None
    try:
        async with aclosing(guest.start(command)) as events:
            async for event in events:
                if isinstance(event, Started) and stdin is not None:
                    feeding = asyncio.create_task(_feed(guest, event.pid, stdin))
                elif isinstance(event, Ended) and feeding is not None and feeding.done():
                    feeding.result()
                yield event
    finally:
        if feeding is not None:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)


async def _feed(guest: Guest, pid: int, data: bytes) -> None:
    try:
        await guest.send_input(pid, data)
        await guest.close_stdin(pid)
    except (Conflict, NotFound):
        return  # it reads no more, or has ended: its own end says the rest
    except PlatformError:
        # It would wait for input that does not come.
        await _kill(guest, pid, "")
        raise


async def _kill(guest: Guest, pid: int | None, tag: str) -> None:
    # Whatever goes wrong here means that the guest, or the process, is gone already.
    with suppress(PlatformError):
        if pid is None:
            # The caller left between the request and its first answer.
            pid = next((process.pid for process in await guest.processes() if process.tag == tag), None)
        if pid is not None:
            await guest.signal(pid, "SIGKILL")
            log.info("command.killed", pid=pid)
