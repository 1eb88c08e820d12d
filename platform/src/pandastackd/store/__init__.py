"""Rows: what the control plane remembers, in SQLite or PostgreSQL.

Knows the database and nothing else. Every statement of SQL in the platform is in this room: one small
repository a table, each with typed methods; ``models`` is the schema, ``migrations`` how it came to be.
"""

from pandastackd.store.database import Database
from pandastackd.store.keys import KeyRepository
from pandastackd.store.models import (
    ApiKeyRow,
    EventRow,
    ForkTreeRow,
    HostRow,
    IdempotencyRow,
    LineageRow,
    SandboxRow,
    SnapshotRow,
    WorkspaceRow,
)
from pandastackd.store.sandboxes import SandboxRepository
from pandastackd.store.store import Store

__all__ = [
    "ApiKeyRow",
    "Database",
    "EventRow",
    "ForkTreeRow",
    "HostRow",
    "IdempotencyRow",
    "KeyRepository",
    "LineageRow",
    "SandboxRepository",
    "SandboxRow",
    "SnapshotRow",
    "Store",
    "WorkspaceRow",
]
