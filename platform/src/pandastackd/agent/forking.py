"""Fork: one pause of the parent, many children from one capture.

The capture is published only for as long as the children start; each takes its own clone and link of it, so it
goes right after, and what a fork costs does not grow with how deep in a line it happens.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Sequence

from pandastackd.agent.birth import give_birth
from pandastackd.agent.capturing import Captured, capture_sandbox
from pandastackd.agent.ledger import MemoryLedger
from pandastackd.agent.rooms import Rooms
from pandastackd.agent.sandbox import Sandbox
from pandastackd.domain import SandboxSpec
from pandastackd.errors import PlatformError
from pandastackd.snapshot import Kind, Snapshot

CHILDREN_AT_ONCE = 8
"""Restores under way at the same time; more would only wait for each other's processor."""


class Fork:
    """The outcome: the capture, and a sandbox or an error for every child asked for, in their order."""

    def __init__(self, captured: Captured, children: list[Sandbox | PlatformError]) -> None:
        self.captured = captured
        self.children = children


async def fork_sandbox(
    rooms: Rooms,
    ledger: MemoryLedger,
    parent: Sandbox,
    specs: Sequence[SandboxSpec],
    on_change: Callable[[str], None],
) -> Fork:
    """Fork a running or paused sandbox into one child a spec. The parent's lock is held only for the capture.

    Raises:
        Conflict: the parent is neither running nor paused.
        InsufficientStorage: no child fits this host's memory, or the capture its disk; nothing was made.
        VmmFailed, HostFailure: the capture failed; the parent goes on.
    """
    refused = _promise(ledger, parent, specs)
    if len(refused) == len(specs):
        raise refused[specs[0].id]
    fork_id = f"fork-{secrets.token_hex(8)}"
    try:
        async with parent.lock:
            captured = await capture_sandbox(rooms, parent, fork_id, kind=Kind.FORK, durable=False)
    except BaseException:
        for spec in specs:
            ledger.release(spec.id)
        raise
    gate = asyncio.Semaphore(CHILDREN_AT_ONCE)

    async def child(spec: SandboxSpec) -> Sandbox | PlatformError:
        if spec.id in refused:
            return refused[spec.id]
        try:
            async with gate:
                return await give_birth(rooms, spec, captured.snapshot, on_change)
        except PlatformError as error:
            ledger.release(spec.id)
            return error
        except BaseException:
            ledger.release(spec.id)
            raise

    try:
        children = await _all([child(spec) for spec in specs])
    finally:
        await asyncio.shield(rooms.snapshots.delete(fork_id))
    return Fork(captured, children)


async def remove_leftover_captures(rooms: Rooms) -> None:
    """Remove captures of forks that an earlier agent did not live to finish."""
    for snapshot in rooms.snapshots.list():
        if is_transient(snapshot):
            await rooms.snapshots.delete(snapshot.id)


def is_transient(snapshot: Snapshot) -> bool:
    """Whether a snapshot is only there for a fork under way."""
    return snapshot.manifest.kind is Kind.FORK


def _promise(ledger: MemoryLedger, parent: Sandbox, specs: Sequence[SandboxSpec]) -> dict[str, PlatformError]:
    refused: dict[str, PlatformError] = {}
    for spec in specs:
        try:
            ledger.promise(spec.id, parent.record.memory_mib)
        except PlatformError as error:
            refused[spec.id] = error
    return refused


async def _all(
    births: list[Coroutine[None, None, Sandbox | PlatformError]],
) -> list[Sandbox | PlatformError]:
    """All children, or, when we are cancelled, none: those that were born meanwhile are ended again."""
    tasks = [asyncio.ensure_future(birth) for birth in births]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Sandbox):
                await asyncio.shield(outcome.destroy())
        raise
