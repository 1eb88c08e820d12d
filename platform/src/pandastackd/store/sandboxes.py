"""Sandboxes: reads by key, and changes that name the state they start from.

A change of state is one conditional UPDATE, so of several processes that want to move one sandbox exactly
one does; the others learn that by getting nothing back. Which state may follow which is not decided here:
callers ask ``lifecycle``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from pandastackd.store.database import Database
from pandastackd.store.models import EventRow, ForkTreeRow, IdempotencyRow, LineageRow, SandboxRow

HIBERNATE = "hibernate"
"""What ``on_timeout`` says of a sandbox that is hibernated at its time, and not deleted."""

FROM_USE = "use"
"""What ``ttl_from`` says of a sandbox whose time to live begins again with every use."""


class SandboxRepository:
    """Rows of ``sandboxes``, and the events, idempotency keys and lineage that are written in the same
    transactions.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, row: SandboxRow, *, idempotency: IdempotencyRow | None = None) -> bool:
        """Store a new sandbox; ``False``, and nothing stored, when its idempotency key is taken."""
        try:
            async with self._database.write() as session:
                if idempotency is not None:
                    session.add(idempotency)
                    await session.flush()
                session.add_all((row, _lineage(row)))
        except IntegrityError:
            if idempotency is None:
                raise
            return False
        return True

    async def add_children(self, rows: Sequence[SandboxRow], *, tree: ForkTreeRow | None = None) -> None:
        """Store the children of a fork, all or none, and the tree they are the branches of."""
        async with self._database.write() as session:
            session.add_all([*rows, *map(_lineage, rows)])
            if tree is not None:
                session.add(tree)

    async def get(self, sandbox_id: str) -> SandboxRow | None:
        """One sandbox, whoever owns it."""
        async with self._database.read() as session:
            return await session.get(SandboxRow, sandbox_id)

    async def owned(self, workspace: str, sandbox_id: str) -> SandboxRow | None:
        """One sandbox of this workspace."""
        row = await self.get(sandbox_id)
        return row if row is not None and row.workspace == workspace else None

    async def listed(self, workspace: str) -> Sequence[SandboxRow]:
        """Every sandbox of this workspace, newest first."""
        statement = (
            select(SandboxRow)
            .where(SandboxRow.workspace == workspace)
            .order_by(SandboxRow.created_at.desc(), SandboxRow.id)
        )
        async with self._database.read() as session:
            return (await session.scalars(statement)).all()

    async def in_tree(self, workspace: str, tree_id: str) -> Sequence[SandboxRow]:
        """The branches of a fork tree of this workspace, oldest first."""
        return await self._where(workspace, SandboxRow.tree_id == tree_id)

    async def of_root(self, workspace: str, root_id: str) -> Sequence[SandboxRow]:
        """The sandboxes of this workspace that descend from ``root_id``, and itself, if still there."""
        return await self._where(workspace, SandboxRow.root_id == root_id)

    async def among(self, workspace: str, sandbox_ids: Collection[str]) -> Sequence[SandboxRow]:
        """Those of ``sandbox_ids`` that are there and of this workspace."""
        return await self._where(workspace, SandboxRow.id.in_(sandbox_ids))

    async def on_host(self, host: str) -> Sequence[SandboxRow]:
        """Every sandbox that is placed on ``host``."""
        async with self._database.read() as session:
            return (await session.scalars(select(SandboxRow).where(SandboxRow.host == host))).all()

    async def counts(self) -> dict[str, int]:
        """How many sandboxes there are in each state."""
        statement = select(SandboxRow.state, func.count()).group_by(SandboxRow.state)
        async with self._database.read() as session:
            return dict((await session.execute(statement)).all())

    async def change(
        self,
        sandbox_id: str,
        *,
        expected: Collection[str],
        values: dict[str, Any],
        event: EventRow | None = None,
        operation: str | None = None,
    ) -> SandboxRow | None:
        """Change a sandbox that is in one of the ``expected`` states, and record ``event`` with it.

        Args:
            operation: also demand that the sandbox is claimed for this operation.

        Returns:
            The row after the change; ``None``, and nothing written, when the sandbox is not as expected.
        """
        where = [SandboxRow.id == sandbox_id, SandboxRow.state.in_(expected)]
        if operation is not None:
            where.append(SandboxRow.operation == operation)
        return await self._update(where, values, event)

    async def claim(
        self, sandbox_id: str, *, expected: Collection[str], operation: str, now: datetime, lease: timedelta
    ) -> SandboxRow | None:
        """Claim a sandbox for one operation; ``None`` when it is in no expected state or someone else has
        it.
        """
        where = [SandboxRow.id == sandbox_id, SandboxRow.state.in_(expected), _unclaimed(now)]
        return await self._update(where, {"operation": operation, "operation_until": now + lease})

    async def release(self, sandbox_id: str, operation: str) -> None:
        """Give a claim back without a change of state."""
        where = [SandboxRow.id == sandbox_id, SandboxRow.operation == operation]
        await self._update(where, {"operation": None, "operation_until": None})

    async def touch(self, sandbox_id: str, *, now: datetime, expected: Collection[str]) -> None:
        """Count as used now, if in one of the ``expected`` states: a time to live that counts from use begins again."""
        async with self._database.write() as session:
            row = await session.get(SandboxRow, sandbox_id, with_for_update=True)
            if row is not None and row.state in expected:
                row.last_used_at = now
                if row.ttl_from == FROM_USE:
                    row.expires_at = expiry(row.persistent, row.ttl_seconds, now)

    async def label_port(self, sandbox_id: str, port: int, label: str | None) -> None:
        """Give a port a label, or take it away; nothing when the sandbox is gone."""
        async with self._database.write() as session:
            row = await session.get(SandboxRow, sandbox_id, with_for_update=True)
            if row is not None:
                others = {key: value for key, value in row.ports.items() if key != str(port)}
                row.ports = others if label is None else {**others, str(port): label}

    async def claim_expired(
        self,
        *,
        expected: Collection[str],
        stopping: str,
        spared: Collection[str] = (),
        now: datetime,
        lease: timedelta,
        limit: int,
    ) -> Sequence[SandboxRow]:
        """Take up to ``limit`` sandboxes that must go and move them to the ``stopping`` state, for the
        caller to end.

        Those are the expired ones in one of the ``expected`` states, and those someone began to stop and
        did not finish. Each is given to one caller only, however many processes ask.

        Args:
            spared: states in which those that want to be hibernated at their time are left alone.
        """
        to_hibernate = (SandboxRow.on_timeout == HIBERNATE) & SandboxRow.state.in_(spared)
        expired = SandboxRow.state.in_(expected) & (SandboxRow.expires_at <= now) & ~to_hibernate
        due = or_(expired, SandboxRow.state == stopping)
        values = {"state": stopping, "operation": "delete", "operation_until": now + lease}
        return await self._take(due, values, now, limit)

    async def claim_idle(
        self, *, expected: Collection[str], now: datetime, lease: timedelta, limit: int
    ) -> Sequence[SandboxRow]:
        """Claim up to ``limit`` expired sandboxes in one of the ``expected`` states that want to be hibernated then."""
        due = (
            (SandboxRow.on_timeout == HIBERNATE)
            & SandboxRow.state.in_(expected)
            & (SandboxRow.expires_at <= now)
        )
        return await self._take(due, {"operation": HIBERNATE, "operation_until": now + lease}, now, limit)

    async def remove(
        self, sandbox_id: str, *, event: EventRow | None = None, forget_key: bool = False
    ) -> None:
        """Forget a sandbox. Its events and its lineage stay, and its idempotency key too.

        Args:
            forget_key: it never came to be: forget its key and its lineage as well.
        """
        async with self._database.write() as session:
            await session.execute(delete(SandboxRow).where(SandboxRow.id == sandbox_id))
            if forget_key:
                await session.execute(delete(IdempotencyRow).where(IdempotencyRow.sandbox_id == sandbox_id))
                await session.execute(delete(LineageRow).where(LineageRow.sandbox_id == sandbox_id))
            else:
                gone = event.time if event is not None else datetime.now(UTC)
                still = (LineageRow.sandbox_id == sandbox_id, LineageRow.deleted_at.is_(None))
                await session.execute(update(LineageRow).where(*still).values(deleted_at=gone))
            if event is not None:
                session.add(event)

    async def _where(self, workspace: str, condition: ColumnElement[bool]) -> Sequence[SandboxRow]:
        statement = (
            select(SandboxRow)
            .where(SandboxRow.workspace == workspace, condition)
            .order_by(SandboxRow.created_at, SandboxRow.id)
        )
        async with self._database.read() as session:
            return (await session.scalars(statement)).all()

    async def _take(
        self, due: ColumnElement[bool], values: dict[str, Any], now: datetime, limit: int
    ) -> Sequence[SandboxRow]:
        """Change up to ``limit`` unclaimed sandboxes that are ``due``, those that waited longest first."""
        chosen = (
            select(SandboxRow.id)
            .where(due, _unclaimed(now))
            .order_by(SandboxRow.expires_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        async with self._database.write() as session:
            ids = (await session.scalars(chosen)).all()
            if not ids:
                return []
            statement = update(SandboxRow).where(SandboxRow.id.in_(ids)).values(values).returning(SandboxRow)
            return (await session.scalars(statement)).all()

    async def _update(
        self, where: Sequence[ColumnElement[bool]], values: dict[str, Any], event: EventRow | None = None
    ) -> SandboxRow | None:
        statement = (
            update(SandboxRow)
            .where(*where)
            .values(values)
            .returning(SandboxRow)
            # The session is fresh: there is nothing in it to bring up to date.
            .execution_options(synchronize_session=False)
        )
        async with self._database.write() as session:
            row = await _one(session, statement)
            if row is not None and event is not None:
                session.add(event)
            return row


def expiry(persistent: bool, ttl_seconds: int, now: datetime) -> datetime | None:
    """When a sandbox that is used ``now`` ends; ``None`` when it does not by itself."""
    return None if persistent else now + timedelta(seconds=ttl_seconds)


def _lineage(row: SandboxRow) -> LineageRow:
    return LineageRow(
        sandbox_id=row.id,
        workspace=row.workspace,
        parent_id=row.parent_id,
        root_id=row.root_id,
        template=row.template,
        kind="create" if row.parent_id is None else "fork",
        created_at=row.created_at,
    )


def _unclaimed(now: datetime) -> ColumnElement[bool]:
    return or_(SandboxRow.operation.is_(None), SandboxRow.operation_until <= now)


async def _one(session: AsyncSession, statement: Any) -> SandboxRow | None:
    row: SandboxRow | None = (await session.execute(statement)).scalar_one_or_none()
    return row
