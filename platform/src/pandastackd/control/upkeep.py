"""What goes on without anybody asking: ending what has expired, and keeping the rows true to the host.

Every step is safe in several processes at once: expired rows are claimed in the database before anything is
ended, and a row changes only from the state it was read in.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

import structlog

from pandastackd.control import rows
from pandastackd.control.clock import Clock
from pandastackd.control.host import HostAgent
from pandastackd.control.moves import LEASE, Moves
from pandastackd.control.sandboxes import DELETABLE, Sandboxes
from pandastackd.control.snapshots import Snapshots
from pandastackd.domain import SandboxReport
from pandastackd.errors import NotFound
from pandastackd.lifecycle import TRANSITIONS, Event, State, advance
from pandastackd.store import SandboxRow, Store

log = structlog.get_logger(__name__)

REAP_AT_ONCE = 16
KEEP_EVENTS = timedelta(days=30)
KEEP_LINEAGE = timedelta(days=30)
KEEP_KEYS = timedelta(days=1)

_LOST = "its machine was gone when the platform looked for it: the host restarted, or the VMM was killed"
_SETTLED = frozenset({State.RUNNING, State.PAUSED, State.HIBERNATED})
"""States in which row and host must agree."""

_HIBERNATABLE = frozenset(state.value for state, arrows in TRANSITIONS.items() if Event.HIBERNATE in arrows)
_EXPIRABLE = DELETABLE - {State.STOPPING.value, State.CREATING.value}


class Upkeep:
    """The background work of one control plane over one host."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        host_id: str,
        sandboxes: Sandboxes,
        moves: Moves,
        snapshots: Snapshots,
        now: Clock,
    ) -> None:
        self._store = store
        self._host = host
        self._host_id = host_id
        self._sandboxes = sandboxes
        self._moves = moves
        self._snapshots = snapshots
        self._now = now

    async def reap(self) -> None:
        """End or hibernate what has expired, and end what someone began to delete and did not finish."""
        claimed = await self._store.sandboxes.claim_expired(
            expected=_EXPIRABLE,
            stopping=State.STOPPING.value,
            spared=_HIBERNATABLE,
            now=self._now(),
            lease=LEASE,
            limit=REAP_AT_ONCE,
        )
        idle = await self._store.sandboxes.claim_idle(
            expected=_HIBERNATABLE, now=self._now(), lease=LEASE, limit=REAP_AT_ONCE
        )
        await asyncio.gather(
            *(self._end(row) for row in claimed), *(self._moves.hibernate_idle(row) for row in idle)
        )

    async def watch(self) -> None:
        """Wait for one sandbox that died by itself, and say so in its row."""
        sandbox_id = await self._host.wait_change()
        try:
            report = await self._host.report(sandbox_id)
        except NotFound:
            return
        row = await self._store.sandboxes.get(sandbox_id)
        if row is not None and report.state is State.FAILED:
            await self._fail(row, report.failure or _LOST, report.console_tail)

    async def reconcile(self, *, alone: bool = False) -> None:
        """Make rows and host agree; the host decides what *is*.

        A machine without a row is ended. A row without a machine has failed. A create that nobody finishes
        any more is undone.

        Args:
            alone: no other process can be creating on this host just now, so every half-made row is
            abandoned.
        """
        # Reports first: a sandbox made in between then has a row, and is at worst looked at twice.
        reports = {report.id: report for report in await self._host.reports()}
        known = {row.id: row for row in await self._store.sandboxes.on_host(self._host_id)}
        for sandbox_id in reports.keys() - known.keys():
            log.warning("reconcile.unknown_machine", sandbox=sandbox_id)
            await self._host.delete(sandbox_id)
        for row in known.values():
            await self._agree(row, reports.get(row.id), alone)
        if alone:
            await self._snapshots.reconcile()

    async def forget(self) -> None:
        """Drop old events, lineage, fork trees and idempotency keys."""
        now = self._now()
        await self._store.events.forget(before=now - KEEP_EVENTS)
        await self._store.lineage.forget(before=now - KEEP_LINEAGE)
        await self._store.fork_trees.forget(before=now - KEEP_LINEAGE)
        await self._store.idempotency.forget(before=now - KEEP_KEYS)

    async def _agree(self, row: SandboxRow, report: SandboxReport | None, alone: bool) -> None:
        state = State(row.state)
        if state is State.CREATING:
            if alone or row.operation_until is None or row.operation_until <= self._now():
                await self._undo_create(row)
        elif report is not None and report.state in _SETTLED and state in _SETTLED | {State.FAILED}:
            if alone and row.operation is not None:
                # Whoever made this claim ended with the process; nobody else is going to let go of it.
                await self._store.sandboxes.release(row.id, row.operation)
            if report.state is not state:
                await self._moves.follow(row)
        elif state in _SETTLED:
            if report is None:
                await self._look_again(row)
            elif report.state is State.FAILED:
                await self._fail(row, report.failure or _LOST, report.console_tail)
        elif state is State.STOPPING and alone:
            await self._end(row)

    async def _look_again(self, row: SandboxRow) -> None:
        """The list may be older than the row: only a second look proves that the machine is gone."""
        try:
            await self._host.report(row.id)
        except NotFound:
            await self._fail(row, _LOST, "")

    async def _undo_create(self, row: SandboxRow) -> None:
        log.warning("reconcile.abandoned_create", sandbox=row.id)
        await self._host.delete(row.id)
        event = rows.event(row, "sandbox.create_failed", self._now(), reason="the platform stopped meanwhile")
        await self._store.sandboxes.remove(row.id, event=event, forget_key=True)

    async def _fail(self, row: SandboxRow, reason: str, console_tail: str) -> None:
        state = State(row.state)
        if Event.DIED not in TRANSITIONS[state] or state is State.STOPPING:
            return
        values = rows.failed(advance(state, Event.DIED), reason, console_tail)
        event = rows.event(row, "sandbox.failed", self._now(), reason=reason)
        if await self._store.sandboxes.change(row.id, expected=[row.state], values=values, event=event):
            log.warning("sandbox.failed", sandbox=row.id, reason=reason)

    async def _end(self, row: SandboxRow) -> None:
        reason = "request" if row.expires_at is None or row.expires_at > self._now() else "expired"
        try:
            await self._sandboxes.end(row, reason)
        except Exception:  # one that cannot be ended must not keep the others
            log.exception("reap.failed", sandbox=row.id, retry="when its claim runs out")
        else:
            log.info("sandbox.reaped", sandbox=row.id, reason=reason)
