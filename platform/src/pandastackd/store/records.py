"""The small tables: hosts, snapshots, lineage, fork trees, events, idempotency keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError

from pandastackd.store.database import Database
from pandastackd.store.models import (
    EventRow,
    ForkTreeRow,
    HostRow,
    IdempotencyRow,
    LineageRow,
    SandboxRow,
    SnapshotRow,
)


class HostRepository:
    """Rows of ``hosts``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def seen(self, host: str, *, now: datetime) -> None:
        """Record that ``host`` is here now; made at its first time."""
        mark = update(HostRow).where(HostRow.id == host).values(seen_at=now).returning(HostRow.id)
        async with self._database.write() as session:
            if (await session.execute(mark)).scalar_one_or_none() is not None:
                return
        try:
            async with self._database.write() as session:
                session.add(HostRow(id=host, created_at=now, seen_at=now))
        except IntegrityError:
            return  # another process made it between the two transactions


class SnapshotRepository:
    """Rows of ``snapshots``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, row: SnapshotRow, *, event: EventRow | None = None) -> None:
        """Store a new snapshot."""
        async with self._database.write() as session:
            session.add(row)
            if event is not None:
                session.add(event)

    async def on_host(self, host: str) -> Sequence[SnapshotRow]:
        """Every snapshot whose files are on ``host``."""
        async with self._database.read() as session:
            return (await session.scalars(select(SnapshotRow).where(SnapshotRow.host == host))).all()

    async def owned(self, workspace: str, snapshot_id: str) -> SnapshotRow | None:
        """One snapshot of this workspace."""
        async with self._database.read() as session:
            row = await session.get(SnapshotRow, snapshot_id)
        return row if row is not None and row.workspace == workspace else None

    async def listed(self, workspace: str, *, sandbox_id: str | None = None) -> Sequence[SnapshotRow]:
        """The workspace's snapshots, newest first; of one sandbox only, if asked."""
        statement = select(SnapshotRow).where(SnapshotRow.workspace == workspace)
        if sandbox_id is not None:
            statement = statement.where(SnapshotRow.sandbox_id == sandbox_id)
        async with self._database.read() as session:
            return (await session.scalars(statement.order_by(SnapshotRow.created_at.desc()))).all()

    async def remove(self, snapshot_id: str, *, event: EventRow | None = None) -> None:
        """Forget a snapshot."""
        async with self._database.write() as session:
            await session.execute(delete(SnapshotRow).where(SnapshotRow.id == snapshot_id))
            if event is not None:
                session.add(event)


class LineageRepository:
    """Rows of ``lineage``; they are written together with their sandbox, see ``SandboxRepository``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def owned(self, workspace: str, sandbox_id: str) -> LineageRow | None:
        """Where a sandbox of this workspace stands, also one that is gone."""
        async with self._database.read() as session:
            row = await session.get(LineageRow, sandbox_id)
        return row if row is not None and row.workspace == workspace else None

    async def tree(self, workspace: str, root_id: str) -> Sequence[LineageRow]:
        """All that descend from ``root_id``, and itself; oldest first. One query, however deep."""
        statement = (
            select(LineageRow)
            .where(LineageRow.workspace == workspace, LineageRow.root_id == root_id)
            .order_by(LineageRow.created_at, LineageRow.sandbox_id)
        )
        async with self._database.read() as session:
            return (await session.scalars(statement)).all()

    async def forget(self, *, before: datetime) -> None:
        """Remove rows of sandboxes that were deleted before ``before``."""
        async with self._database.write() as session:
            await session.execute(delete(LineageRow).where(LineageRow.deleted_at < before))


class ForkTreeRepository:
    """Rows of ``fork_trees``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, row: ForkTreeRow) -> None:
        """Store a new fork tree."""
        async with self._database.write() as session:
            session.add(row)

    async def promote(self, workspace: str, tree_id: str, winner: str) -> str | None:
        """Make ``winner`` the tree's winner unless it has one; the winner it has now, ``None`` without such a tree."""
        undecided = (
            ForkTreeRow.id == tree_id,
            ForkTreeRow.workspace == workspace,
            ForkTreeRow.winner.is_(None),
        )
        async with self._database.write() as session:
            await session.execute(update(ForkTreeRow).where(*undecided).values(winner=winner))
            row = await session.get(ForkTreeRow, tree_id)
            return row.winner if row is not None and row.workspace == workspace else None

    async def forget(self, *, before: datetime) -> None:
        """Remove trees made before ``before`` of which no branch is left."""
        alive = select(SandboxRow.tree_id).where(SandboxRow.tree_id.is_not(None))
        async with self._database.write() as session:
            await session.execute(
                delete(ForkTreeRow).where(ForkTreeRow.created_at < before, ForkTreeRow.id.not_in(alive))
            )


class EventRepository:
    """Rows of ``events``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, row: EventRow) -> None:
        """Store an event that goes with no other change."""
        async with self._database.write() as session:
            session.add(row)

    async def tail(self, workspace: str, sandbox_id: str, *, limit: int) -> Sequence[EventRow]:
        """The last ``limit`` events of a sandbox, oldest first."""
        statement = (
            select(EventRow)
            .where(EventRow.workspace == workspace, EventRow.sandbox_id == sandbox_id)
            .order_by(EventRow.seq.desc())
            .limit(limit)
        )
        async with self._database.read() as session:
            return (await session.scalars(statement)).all()[::-1]

    async def forget(self, *, before: datetime) -> None:
        """Remove events older than ``before``."""
        async with self._database.write() as session:
            await session.execute(delete(EventRow).where(EventRow.time < before))


class IdempotencyRepository:
    """Rows of ``idempotency_keys``; a create's are written together with its sandbox, see
    ``SandboxRepository.add``.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, workspace: str, key: str) -> IdempotencyRow | None:
        """What this key made, if it was used."""
        async with self._database.read() as session:
            return await session.get(IdempotencyRow, (workspace, key))

    async def begin(self, row: IdempotencyRow, *, abandoned_before: datetime) -> bool:
        """Take a key for a call that begins now; ``False`` when another call has it.

        A key that the same call took before ``abandoned_before`` and has no answer yet is taken over: whoever
        had it is no more.
        """
        abandoned = (
            IdempotencyRow.workspace == row.workspace,
            IdempotencyRow.key == row.key,
            IdempotencyRow.digest == row.digest,
            IdempotencyRow.sandbox_id == row.sandbox_id,
            IdempotencyRow.answer.is_(None),
            IdempotencyRow.created_at < abandoned_before,
        )
        take_over = (
            update(IdempotencyRow)
            .where(*abandoned)
            .values(created_at=row.created_at)
            .returning(IdempotencyRow.key)
        )
        async with self._database.write() as session:
            if (await session.execute(take_over)).scalar_one_or_none() is not None:
                return True
        try:
            async with self._database.write() as session:
                session.add(row)
        except IntegrityError:
            return False
        return True

    async def finish(self, workspace: str, key: str, answer: dict[str, Any]) -> None:
        """Remember what the call with this key was answered."""
        mine = (IdempotencyRow.workspace == workspace, IdempotencyRow.key == key)
        async with self._database.write() as session:
            await session.execute(update(IdempotencyRow).where(*mine).values(answer=answer))

    async def free(self, workspace: str, key: str) -> None:
        """Give a key back whose call made nothing."""
        mine = (IdempotencyRow.workspace == workspace, IdempotencyRow.key == key)
        async with self._database.write() as session:
            await session.execute(delete(IdempotencyRow).where(*mine))

    async def forget(self, *, before: datetime) -> None:
        """Remove keys older than ``before``."""
        async with self._database.write() as session:
            await session.execute(delete(IdempotencyRow).where(IdempotencyRow.created_at < before))
