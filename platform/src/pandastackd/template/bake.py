"""What is done in a booted machine before it is frozen into a template, and the order in which it is done.

The machine itself belongs to the host agent, which hands it in as a :class:`Bench`.
"""

from __future__ import annotations

import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import anyio

from pandastackd.errors import CommandTimeout, HostFailure
from pandastackd.guest import Command, GuestClient, Started
from pandastackd.template.recipe import Ready, Recipe, Start
from pandastackd.template.tools import Progress

COMMAND_TIMEOUT_SECONDS = 1800.0
_OUTPUT_SHOWN = 2000
_READY_PAUSE_SECONDS = 0.2
_READY_ATTEMPT_SECONDS = 30.0
_START_TAG = "start"


class Bench(Protocol):
    """A booted machine with nothing in it but the template's disk."""

    @property
    def guest(self) -> GuestClient:
        """Client of its guest agent."""

    async def shut_down_into(self, disk: Path) -> None:
        """Shuts the guest down in order and moves its disk, cleanly unmounted, to ``disk``."""


class OpenBench(Protocol):
    """Boots a machine on a copy of a disk; the machine is gone when the block ends."""

    def __call__(self, disk: Path, *, vcpus: int, memory_mib: int) -> AbstractAsyncContextManager[Bench]: ...


async def run_commands(guest: GuestClient, recipe: Recipe, *, progress: Progress) -> None:
    """Runs the build commands of one layer of a recipe, in order, as root.

    Raises:
        HostFailure: one failed; carries its exit code and the end of what it printed.
    """
    for number, command in enumerate(recipe.written.commands, start=1):
        progress("commands", f"{number} of {len(recipe.written.commands)}: {command.splitlines()[0]}")
        await _run(guest, recipe, command, user="root")


async def warm_up(guest: GuestClient, recipe: Recipe, *, progress: Progress) -> None:
    """Brings a machine to the point at which it is worth freezing: started, ready, warm, its disk written.

    Raises:
        HostFailure: it did not become ready, or a warming command failed; carries what was printed.
    """
    if recipe.start is not None:
        progress("start", recipe.start.command.splitlines()[0])
        await _start(guest, recipe, recipe.start)
    if recipe.ready is not None:
        progress("ready", recipe.ready.command.splitlines()[0])
        await _wait_ready(guest, recipe, recipe.ready)
    for command in recipe.warm:
        progress("warm", command)
        await _run(guest, recipe, command, user="user")
    await guest.sync()


async def _start(guest: GuestClient, recipe: Recipe, start: Start) -> None:
    """Starts the template's process; it goes on when nobody follows it any more."""
    events = guest.start(_shell(recipe, start.command, user=start.user, tag=_START_TAG))
    try:
        first = await anext(events)
    finally:
        await events.aclose()
    if not isinstance(first, Started):
        raise HostFailure(f"template {recipe.name}: its start command did not start", code="build_failed")


async def _wait_ready(guest: GuestClient, recipe: Recipe, ready: Ready) -> None:
    deadline = time.monotonic() + ready.timeout_seconds
    while True:
        command = _shell(recipe, ready.command, user=ready.user, timeout_seconds=_READY_ATTEMPT_SECONDS)
        try:
            result = await guest.run(command, output_limit=_OUTPUT_SHOWN)
        except CommandTimeout as slow:
            why = slow.message
        else:
            if result.exit_code == 0:
                return
            why = f"it still ends with code {result.exit_code}: {_tail(result.stderr or result.stdout)}"
        if time.monotonic() > deadline:
            raise HostFailure(
                f"template {recipe.name} was not ready after {ready.timeout_seconds} s: {ready.command!r}: {why}",
                code="template_not_ready",
            )
        await anyio.sleep(_READY_PAUSE_SECONDS)


async def _run(guest: GuestClient, recipe: Recipe, command: str, *, user: str) -> None:
    result = await guest.run(_shell(recipe, command, user=user, timeout_seconds=COMMAND_TIMEOUT_SECONDS))
    if result.exit_code != 0:
        raise HostFailure(
            f"template {recipe.name}: {command!r} ended with code {result.exit_code}:"
            f" {_tail(result.stderr or result.stdout)}; mend the command or what it needs",
            code="template_command_failed",
        )


def _shell(
    recipe: Recipe, command: str, *, user: str, timeout_seconds: float | None = None, tag: str | None = None
) -> Command:
    return Command(
        args=("/bin/bash", "-l", "-c", command),
        env=recipe.env,
        user=user,
        timeout_seconds=timeout_seconds,
        tag=tag,
    )


def _tail(output: bytes) -> str:
    return output[-_OUTPUT_SHOWN:].decode(errors="replace").strip() or "it printed nothing"
