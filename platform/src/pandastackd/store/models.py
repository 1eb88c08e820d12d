"""The schema: one class a table.

Rows leave this room detached: whoever holds one may read it, and changes go through a repository. Times are
aware UTC, sizes MiB or bytes as the name says. No secret is here: keys are hashes, environments are not
stored at all.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    String,
    Text,
    TypeDecorator,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class UtcTime(TypeDecorator[datetime]):
    """An aware UTC time in every database; SQLite itself forgets the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive times: they would mean something else on another machine."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive time cannot be stored")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the zone back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Root of all tables."""

    type_annotation_map = {  # noqa: RUF012 - the name and shape are SQLAlchemy's
        datetime: UtcTime(),
        dict[str, Any]: JSON(),
        dict[str, str]: JSON(),
        dict[str, float]: JSON(),
        float: Float(53),
    }


class WorkspaceRow(Base):
    """A tenant. Its name is a label and gives no rights."""

    __tablename__ = "workspaces"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(128))
    created_at: Mapped[datetime]


class ApiKeyRow(Base):
    """An API key: only the hash of its secret part, and what people need to recognise it."""

    __tablename__ = "api_keys"
    __table_args__ = (Index("ix_api_keys_prefix", "workspace", "prefix", unique=True),)

    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    prefix: Mapped[str] = mapped_column(String(16))
    workspace: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    label: Mapped[str] = mapped_column(String(256))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class HostRow(Base):
    """A machine that runs sandboxes."""

    __tablename__ = "hosts"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    created_at: Mapped[datetime]
    seen_at: Mapped[datetime]


class SandboxRow(Base):
    """A sandbox: what it should be (state, lifetime) and what its host last reported.

    ``operation`` and ``operation_until`` are the claim of whoever moves it just now; a claim past its time
    is nobody's. ``parent_id`` is whom it was forked of, ``root_id`` the first of the line (itself, when it was
    created), ``tree_id`` the fork tree it is a branch of. ``ttl_from`` is what ``ttl_seconds`` counts
    from: each ``use``, or the moment it was ``set``.
    """

    __tablename__ = "sandboxes"
    __table_args__ = (
        Index("ix_sandboxes_workspace", "workspace", "created_at"),
        Index("ix_sandboxes_host", "host", "state"),
        Index("ix_sandboxes_expiry", "expires_at"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    workspace: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    host: Mapped[str] = mapped_column(ForeignKey("hosts.id"))
    template: Mapped[str] = mapped_column(String(128))
    snapshot_id: Mapped[str] = mapped_column(String(128))
    from_snapshot: Mapped[str | None] = mapped_column(String(128))
    parent_id: Mapped[str | None] = mapped_column(String(64))
    root_id: Mapped[str] = mapped_column(String(64), index=True)
    tree_id: Mapped[str | None] = mapped_column(String(64), index=True)
    state: Mapped[str] = mapped_column(String(16))
    operation: Mapped[str | None] = mapped_column(String(16))
    operation_until: Mapped[datetime | None]
    # "metadata" is a word SQLAlchemy keeps for itself on a mapped class.
    labels: Mapped[dict[str, str]] = mapped_column("metadata", JSON)
    # Port number → what its owner calls it.
    ports: Mapped[dict[str, str]] = mapped_column(JSON, default=dict)
    ttl_seconds: Mapped[int]
    ttl_from: Mapped[str] = mapped_column(String(8))
    wake_on_traffic: Mapped[bool]
    # What differs from the default; the words are control's.
    network: Mapped[dict[str, Any]] = mapped_column(JSON)
    on_timeout: Mapped[str] = mapped_column(String(16))
    persistent: Mapped[bool]
    created_at: Mapped[datetime]
    last_used_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    vcpus: Mapped[int]
    memory_mib: Mapped[int]
    guest_ip: Mapped[str] = mapped_column(String(64))
    host_tap: Mapped[str] = mapped_column(String(64))
    mac: Mapped[str] = mapped_column(String(32))
    boot_mode: Mapped[str] = mapped_column(String(32))
    boot_ms: Mapped[float | None]
    phases: Mapped[dict[str, float]] = mapped_column(JSON)
    failure: Mapped[str | None] = mapped_column(Text)
    console_tail: Mapped[str] = mapped_column(Text)
    envd_version: Mapped[str] = mapped_column(String(32))


class SnapshotRow(Base):
    """A user's own snapshot. Its files are on the host; this says whose they are."""

    __tablename__ = "snapshots"
    __table_args__ = (Index("ix_snapshots_workspace", "workspace", "created_at"),)

    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    workspace: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    host: Mapped[str] = mapped_column(String(64))
    # Not a foreign key: a snapshot outlives the sandbox it was taken of.
    sandbox_id: Mapped[str] = mapped_column(String(64), index=True)
    template: Mapped[str] = mapped_column(String(128))
    name: Mapped[str | None] = mapped_column(String(128))
    parent: Mapped[str | None] = mapped_column(String(128))
    vcpus: Mapped[int]
    memory_mib: Mapped[int]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    parent_pause_ms: Mapped[float | None]
    capture_ms: Mapped[float | None]
    created_at: Mapped[datetime]


class LineageRow(Base):
    """Whose child a sandbox is; kept for a while after the sandbox is gone, so that a tree stays whole.

    No foreign keys: a row outlives its sandbox, its parent's and its root's.
    """

    __tablename__ = "lineage"
    __table_args__ = (Index("ix_lineage_root", "workspace", "root_id"),)

    sandbox_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    workspace: Mapped[str] = mapped_column(String(64))
    parent_id: Mapped[str | None] = mapped_column(String(64))
    root_id: Mapped[str] = mapped_column(String(64))
    template: Mapped[str] = mapped_column(String(128))
    kind: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None] = mapped_column(index=True)


class ForkTreeRow(Base):
    """A set of branches of which one may be promoted: ``winner``, set once."""

    __tablename__ = "fork_trees"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    workspace: Mapped[str] = mapped_column(String(64))
    winner: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(index=True)


class EventRow(Base):
    """Something that happened to a sandbox; kept after the sandbox is gone."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_sandbox", "sandbox_id", "seq"),)

    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    workspace: Mapped[str] = mapped_column(String(64))
    sandbox_id: Mapped[str] = mapped_column(String(64))
    type: Mapped[str] = mapped_column(String(64))
    payload: Mapped[dict[str, Any]] = mapped_column(JSON)
    time: Mapped[datetime] = mapped_column(index=True)


class IdempotencyRow(Base):
    """A client's own name for one call that makes something, so that a retried call is the same call.

    Of a create, ``sandbox_id`` says what it made. Of other calls it is empty, and ``answer`` is what they were
    answered, ``None`` while they are still at it.
    """

    __tablename__ = "idempotency_keys"

    workspace: Mapped[str] = mapped_column(ForeignKey("workspaces.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(256), primary_key=True)
    sandbox_id: Mapped[str] = mapped_column(String(64), index=True)
    digest: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(index=True)
    answer: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
