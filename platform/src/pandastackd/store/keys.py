"""Workspaces and API keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from pandastackd.store.database import Database
from pandastackd.store.models import ApiKeyRow, WorkspaceRow


class KeyRepository:
    """Rows of ``workspaces`` and ``api_keys``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ensure_workspace(self, workspace: str, *, name: str, now: datetime) -> None:
        """Make the workspace if it is not there; several processes may do so at once."""
        async with self._database.read() as session:
            if await session.get(WorkspaceRow, workspace) is not None:
                return
        try:
            async with self._database.write() as session:
                session.add(WorkspaceRow(id=workspace, name=name, created_at=now))
        except IntegrityError:
            return  # another process made it between the two statements

    async def add(self, row: ApiKeyRow) -> bool:
        """Store a new key; ``False`` when its hash or its prefix is taken."""
        try:
            async with self._database.write() as session:
                session.add(row)
        except IntegrityError:
            return False
        return True

    async def by_hash(self, digest: str) -> ApiKeyRow | None:
        """The key whose secret hashes to ``digest``, revoked and expired ones too."""
        async with self._database.read() as session:
            return await session.get(ApiKeyRow, digest)

    async def listed(self, workspace: str) -> Sequence[ApiKeyRow]:
        """The workspace's keys that are not revoked, newest first."""
        statement = (
            select(ApiKeyRow)
            .where(ApiKeyRow.workspace == workspace, ApiKeyRow.revoked_at.is_(None))
            .order_by(ApiKeyRow.created_at.desc(), ApiKeyRow.prefix)
        )
        async with self._database.read() as session:
            return (await session.scalars(statement)).all()

    async def revoke(self, workspace: str, prefix: str, *, now: datetime) -> str | None:
        """End a key for good. Returns its hash, or ``None`` when the workspace has no such key."""
        statement = (
            update(ApiKeyRow)
            .where(
                ApiKeyRow.workspace == workspace, ApiKeyRow.prefix == prefix, ApiKeyRow.revoked_at.is_(None)
            )
            .values(revoked_at=now)
            .returning(ApiKeyRow.hash)
        )
        async with self._database.write() as session:
            return (await session.execute(statement)).scalar_one_or_none()

    async def used(self, digest: str, *, now: datetime) -> None:
        """Remember when the key was last used."""
        async with self._database.write() as session:
            await session.execute(update(ApiKeyRow).where(ApiKeyRow.hash == digest).values(last_used_at=now))
