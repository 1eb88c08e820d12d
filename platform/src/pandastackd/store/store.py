"""The store as a whole: one database, one repository a table."""

from __future__ import annotations

from typing import Self

from pandastackd.store.database import Database
from pandastackd.store.keys import KeyRepository
from pandastackd.store.records import (
    EventRepository,
    ForkTreeRepository,
    HostRepository,
    IdempotencyRepository,
    LineageRepository,
    SnapshotRepository,
)
from pandastackd.store.sandboxes import SandboxRepository


class Store:
    """Everything the control plane remembers.

    Attributes:
        database: the connection behind all of it.
        keys, hosts, sandboxes, snapshots, lineage, fork_trees, events, idempotency: one repository a table.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.keys = KeyRepository(database)
        self.hosts = HostRepository(database)
        self.sandboxes = SandboxRepository(database)
        self.snapshots = SnapshotRepository(database)
        self.lineage = LineageRepository(database)
        self.fork_trees = ForkTreeRepository(database)
        self.events = EventRepository(database)
        self.idempotency = IdempotencyRepository(database)

    @classmethod
    async def open(cls, url: str) -> Self:
        """Open the database at ``url`` and bring its schema up to date.

        Raises:
            HostFailure: it cannot be used; says why.
        """
        return cls(await Database.open(url))

    async def close(self) -> None:
        """Close every connection."""
        await self.database.close()
