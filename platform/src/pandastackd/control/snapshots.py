"""Users' own snapshots: take, look, remove; and rows true to the files.

The files are the host's, the row says whose they are. A row is written only when the files are there, and files
without a row are removed: at once when the row cannot be written, and at start when a crash came in between.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress

import structlog

from pandastackd.control import rows
from pandastackd.control.background import Background
from pandastackd.control.clock import Clock
from pandastackd.control.host import HostAgent
from pandastackd.control.keys import Principal
from pandastackd.control.moves import Moves, missing
from pandastackd.control.once import Answer, Key, Once
from pandastackd.control.usage import Usage
from pandastackd.errors import Conflict, InvalidRequest, NotFound, PlatformError
from pandastackd.store import SandboxRow, SnapshotRow, Store

log = structlog.get_logger(__name__)

PREFIX = "snap-u-"
"""How users' snapshots are told from whatever else is on a host."""

MAX_NAME = 128


class Snapshots:
    """The snapshots of one host's sandboxes."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        host_id: str,
        moves: Moves,
        usage: Usage,
        once: Once,
        background: Background,
        now: Clock,
    ) -> None:
        self._store = store
        self._host = host
        self._host_id = host_id
        self._moves = moves
        self._usage = usage
        self._once = once
        self._background = background
        self._now = now

    async def create(
        self, principal: Principal, sandbox_id: str, *, name: str | None = None, key: Key | None = None
    ) -> SnapshotRow:
        """Capture a sandbox's memory, device state and disk at one instant; it goes on.

        A hibernated one is woken first. A caller that goes away finds the snapshot in the list.

        Raises:
            NotFound: the sandbox is not there, or not the caller's.
            Conflict: it is neither running nor paused; or the key's snapshot is gone.
            InsufficientStorage, VmmFailed, HostFailure: it could not be taken; the sandbox goes on, nothing is left.
        """
        if name is not None and not 0 < len(name) <= MAX_NAME:
            raise InvalidRequest(f"name must have 1 to {MAX_NAME} characters")
        row = await self._store.sandboxes.owned(principal.workspace, sandbox_id)
        if row is None:
            raise missing(sandbox_id)
        found = row

        async def work() -> Answer:
            return {"snapshot_id": await self._take(found, name)}

        job = self._once.run(principal.workspace, key, work)
        answer = await asyncio.shield(self._background.spawn(job, name=f"snapshot-{row.id}"))
        made = await self._store.snapshots.owned(principal.workspace, answer["snapshot_id"])
        if made is None:
            raise Conflict(
                f"snapshot {answer['snapshot_id']} was made and is deleted; use a new Idempotency-Key",
                code="idempotency_gone",
            )
        return made

    async def get(self, principal: Principal, snapshot_id: str) -> SnapshotRow:
        """One snapshot.

        Raises:
            NotFound: it is not there, or not the caller's.
        """
        row = await self._store.snapshots.owned(principal.workspace, snapshot_id)
        if row is None:
            raise NotFound(f"no snapshot {snapshot_id}", code="snapshot_not_found")
        return row

    async def find(self, principal: Principal, id_or_name: str) -> SnapshotRow:
        """The snapshot with this id, else the newest with this name.

        Raises:
            NotFound: the caller has none.
        """
        row = await self._store.snapshots.owned(principal.workspace, id_or_name)
        if row is None:
            for named in await self._store.snapshots.listed(principal.workspace, sandbox_id=None):
                if named.name == id_or_name:
                    return named
            raise NotFound(f"no snapshot {id_or_name}", code="snapshot_not_found")
        return row

    async def listed(self, principal: Principal, *, sandbox_id: str | None = None) -> Sequence[SnapshotRow]:
        """The caller's snapshots, newest first; of one sandbox only, if asked. Also of sandboxes that are gone."""
        return await self._store.snapshots.listed(principal.workspace, sandbox_id=sandbox_id)

    async def delete(self, principal: Principal, snapshot_id: str) -> None:
        """Remove a snapshot. What runs on it has its own link of every file, so nothing stands in the way.

        Raises:
            NotFound: it is not there, or not the caller's.
        """
        row = await self.get(principal, snapshot_id)
        await asyncio.shield(self._background.spawn(self._remove(row), name=f"delete-{row.id}"))

    async def reconcile(self) -> None:
        """Remove files without a row, and rows without files. Nobody else may be using this host just now."""
        there = set(await self._host.snapshots())
        known = {row.id: row for row in await self._store.snapshots.on_host(self._host_id)}
        for snapshot_id in there - known.keys():
            if snapshot_id.startswith(PREFIX):
                log.warning("reconcile.unknown_snapshot", snapshot=snapshot_id)
                await self._host.delete_snapshot(snapshot_id)
        for snapshot_id in known.keys() - there:
            log.warning("reconcile.lost_snapshot", snapshot=snapshot_id)
            await self._store.snapshots.remove(snapshot_id)

    async def _take(self, row: SandboxRow, name: str | None) -> str:
        row = await self._moves.ready(row, paused_will_do=True)
        snapshot_id = PREFIX + secrets.token_hex(10)
        try:
            with self._usage.hold(row):
                report = await self._host.snapshot(row.id, snapshot_id)
            now = self._now()
            made = SnapshotRow(
                id=snapshot_id,
                workspace=row.workspace,
                host=self._host_id,
                sandbox_id=row.id,
                template=row.template,
                name=name,
                parent=row.snapshot_id,
                vcpus=report.vcpus,
                memory_mib=report.memory_mib,
                size_bytes=report.size_bytes,
                parent_pause_ms=round(report.parent_pause_ms, 2),
                capture_ms=round(report.capture_ms, 2),
                created_at=now,
            )
            event = rows.event(
                row,
                "snapshot.created",
                now,
                snapshot_id=snapshot_id,
                size_bytes=report.size_bytes,
                parent_pause_ms=made.parent_pause_ms,
            )
            await self._store.snapshots.add(made, event=event)
        except BaseException as error:
            reason = error.message if isinstance(error, PlatformError) else type(error).__name__
            log.warning("snapshot.failed", sandbox=row.id, reason=reason)
            # What cannot be removed now is removed at the next start; the first error is the one to tell.
            with suppress(PlatformError):
                await asyncio.shield(self._host.delete_snapshot(snapshot_id))
            raise
        return snapshot_id

    async def _remove(self, row: SnapshotRow) -> None:
        # Files first: should that fail, the row is still there for another try.
        await self._host.delete_snapshot(row.id)
        event = rows.happened(
            row.workspace, row.sandbox_id, "snapshot.deleted", self._now(), snapshot_id=row.id
        )
        await self._store.snapshots.remove(row.id, event=event)
