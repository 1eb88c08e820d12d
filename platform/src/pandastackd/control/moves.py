"""Moves of a sandbox between states: pause, resume, hibernate, wake, roll back.

Every move asks the life cycle's table, claims the row, asks the host, then writes what came of it. A row that is
claimed belongs to one mover, in whatever process it runs; the work is a job of its own, so a caller that goes away does
not stop it half-way. When the host refuses, the row says what the host says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import structlog

from pandastackd.config import Settings
from pandastackd.control import rows
from pandastackd.control.background import Background
from pandastackd.control.clock import Clock
from pandastackd.control.host import HostAgent
from pandastackd.domain import SandboxReport
from pandastackd.errors import Conflict, NotFound, PlatformError
from pandastackd.lifecycle import TRANSITIONS, Event, State, advance
from pandastackd.store import SandboxRow, SnapshotRow, Store

log = structlog.get_logger(__name__)

LEASE = timedelta(minutes=5)
"""How long one move may take before its claim is nobody's."""

READY_SECONDS = 60.0
READY_PAUSE_SECONDS = 0.05
RETRY_HIBERNATE = timedelta(minutes=1)

Act = Callable[[str], Awaitable[SandboxReport]]

_DONE = {
    Event.PAUSE: "sandbox.paused",
    Event.RESUME: "sandbox.running",
    Event.HIBERNATE: "sandbox.hibernated",
    Event.WAKE: "sandbox.woken",
    Event.ROLLBACK: "sandbox.rolled_back",
}
_LEADS_TO_RUNNING = frozenset({Event.HIBERNATE.value, Event.WAKE.value, Event.ROLLBACK.value})
"""Moves under way that somebody who needs the sandbox waits for."""


class Moves:
    """Moves sandboxes of one host."""

    def __init__(
        self, store: Store, host: HostAgent, settings: Settings, background: Background, now: Clock
    ) -> None:
        self._store = store
        self._host = host
        self._settings = settings
        self._background = background
        self._now = now
        self._waking: dict[str, asyncio.Task[SandboxRow]] = {}

    async def pause(self, row: SandboxRow) -> SandboxRow:
        """Freeze in memory.

        Raises:
            IllegalTransition: it is not running.
            Conflict: something else moves it just now.
        """
        return await self._move(row, Event.PAUSE, self._host.pause)

    async def resume(self, row: SandboxRow) -> SandboxRow:
        """Let a paused sandbox go on. Raises as :meth:`pause`."""
        return await self._move(row, Event.RESUME, self._host.resume)

    async def hibernate(self, row: SandboxRow) -> SandboxRow:
        """Memory to disk, no process left; when it fails, the sandbox goes on. Raises as :meth:`pause`."""
        return await self._move(row, Event.HIBERNATE, self._host.hibernate)

    async def rollback(self, row: SandboxRow, snapshot: SnapshotRow) -> SandboxRow:
        """Put an earlier instant in place of the present one; when it fails, the present one goes on.

        Raises:
            IllegalTransition, Conflict: as :meth:`pause`; also, the snapshot is of a machine of another size.
        """

        async def act(sandbox_id: str) -> SandboxReport:
            return await self._host.rollback(sandbox_id, snapshot.id)

        values = {"snapshot_id": snapshot.id, "template": snapshot.template}
        return await self._move(row, Event.ROLLBACK, act, values, snapshot_id=snapshot.id)

    async def wake(self, row: SandboxRow) -> SandboxRow:
        """Start a hibernated sandbox where it stopped; one that runs is awake already.

        Raises:
            IllegalTransition: it is neither hibernated nor running.
            NoCapacity, InsufficientStorage, VmmFailed: it could not be started, and sleeps on.
        """
        if row.state not in (State.RUNNING, State.HIBERNATED):
            advance(State(row.state), Event.WAKE, sandbox_id=row.id)
        return await self.ready(row)

    async def ready(self, row: SandboxRow, *, paused_will_do: bool = False) -> SandboxRow:
        """The sandbox as soon as it runs. One that is hibernated is woken: by one caller, and the others wait.

        Args:
            paused_will_do: a paused sandbox is good enough.

        Raises:
            NotFound: it was deleted meanwhile.
            Conflict: it does not run and no wake changes that; says what to do. Or it is moved for too long.
            NoCapacity, InsufficientStorage, VmmFailed: it could not be woken, and sleeps on.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + READY_SECONDS
        while loop.time() < deadline:
            moving = row.operation_until is not None and row.operation_until > self._now()
            if not (moving and row.operation in _LEADS_TO_RUNNING):
                if row.state == State.RUNNING or (paused_will_do and row.state == State.PAUSED):
                    return row
                if row.state != State.HIBERNATED:
                    raise not_running(row)
                waking = self._waking.get(row.id) or self._wake(row)
                try:
                    return await asyncio.shield(waking)
                except Claimed:
                    pass  # by another process: wait for it
            await asyncio.sleep(READY_PAUSE_SECONDS)
            row = await self._store.sandboxes.get(row.id) or gone(row.id)
        raise Conflict(f"sandbox {row.id} is still being moved ({row.operation}); try again", code="busy")

    async def hibernate_idle(self, row: SandboxRow) -> None:
        """Finish the hibernation of a sandbox whose time is up and that is claimed for it.

        One that cannot be hibernated just now (a full disk) goes on, and is tried again in a minute.
        """
        try:
            await self._carry_out(
                row,
                Event.HIBERNATE,
                advance(State(row.state), Event.HIBERNATE),
                self._host.hibernate,
                {},
                {"reason": "expired"},
            )
        except Exception as error:  # noqa: BLE001 - one that cannot be hibernated must not keep the others
            reason = error.message if isinstance(error, PlatformError) else type(error).__name__
            log.warning("sandbox.hibernate_failed", sandbox=row.id, reason=reason)
            now = self._now()
            await self._store.sandboxes.change(
                row.id,
                expected=[State.RUNNING, State.PAUSED],
                values={"expires_at": now + RETRY_HIBERNATE},
                event=rows.event(row, "sandbox.hibernate_failed", now, reason=reason),
            )

    async def follow(self, row: SandboxRow, operation: str = "follow") -> None:
        """Bring a row that nobody moves in line with what its host says of it: a move was cut off in between."""
        claimed = await self._store.sandboxes.claim(
            row.id, expected=[row.state], operation=operation, now=self._now(), lease=LEASE
        )
        if claimed is not None:
            await self._settle(claimed, operation)

    def _wake(self, row: SandboxRow) -> asyncio.Task[SandboxRow]:
        work = self._move(row, Event.WAKE, self._host.wake)
        task = self._background.spawn(work, name=f"wake-{row.id}")
        self._waking[row.id] = task
        task.add_done_callback(lambda _: self._waking.pop(row.id, None))
        return task

    async def _move(
        self,
        row: SandboxRow,
        event: Event,
        act: Act,
        values: dict[str, Any] | None = None,
        **payload: Any,
    ) -> SandboxRow:
        after = advance(State(row.state), event, sandbox_id=row.id)
        claimed = await self._store.sandboxes.claim(
            row.id, expected=[row.state], operation=event.value, now=self._now(), lease=LEASE
        )
        if claimed is None:
            raise Claimed(f"sandbox {row.id} is being moved by another call; try again", code="busy")
        work = self._carry_out(claimed, event, after, act, values or {}, payload)
        return await asyncio.shield(self._background.spawn(work, name=f"{event}-{row.id}"))

    async def _carry_out(
        self,
        row: SandboxRow,
        event: Event,
        after: State,
        act: Act,
        values: dict[str, Any],
        payload: dict[str, Any],
    ) -> SandboxRow:
        try:
            report = await act(row.id)
        except BaseException:
            await asyncio.shield(self._settle(row, event.value))
            raise
        now = self._now()
        moved = await self._store.sandboxes.change(
            row.id,
            expected=[row.state],
            operation=event.value,
            values={**rows.moved(row, report, after, now, self._settings), **values},
            event=rows.event(row, _DONE[event], now, **payload),
        )
        if moved is None:
            seen = await self._store.sandboxes.get(row.id)
            raise missing(row.id) if seen is None else not_running(seen)
        return moved

    async def _settle(self, row: SandboxRow, operation: str) -> None:
        """End a claim, with the state that the host reports if the table has a move that leads there."""
        try:
            report = await self._host.report(row.id)
        except PlatformError:
            await self._store.sandboxes.release(row.id, operation)
            return
        arrows = {TRANSITIONS[State(row.state)].get(event) for event in _DONE}
        if report.state == row.state or report.state not in arrows:
            await self._store.sandboxes.release(row.id, operation)
            return
        values = rows.moved(row, report, report.state, self._now(), self._settings)
        await self._store.sandboxes.change(row.id, expected=[row.state], operation=operation, values=values)


class Claimed(Conflict):
    """Somebody else moves the sandbox just now."""


def missing(sandbox_id: str) -> NotFound:
    """The error for a sandbox that is not there, or not the caller's."""
    return NotFound(f"no sandbox {sandbox_id}", code="sandbox_not_found")


def gone(sandbox_id: str) -> SandboxRow:
    """Raise :func:`missing`, where a row is expected."""
    raise missing(sandbox_id)


def not_running(row: SandboxRow) -> Conflict:
    """The error for a sandbox that does not run; says what to do."""
    remedy = {
        State.PAUSED: "resume it first",
        State.HIBERNATED: "wake it first",
        State.CREATING: "wait until it runs",
        State.FAILED: f"{row.failure or 'its machine died'}; delete it and create a new one",
        State.STOPPING: "it is being deleted",
    }.get(State(row.state), "try again")
    return Conflict(f"sandbox {row.id} is {row.state}, not running: {remedy}", code="not_running")
