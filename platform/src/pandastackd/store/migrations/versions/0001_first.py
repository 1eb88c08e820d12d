"""The first schema: workspaces, keys, hosts, sandboxes, snapshots, events, idempotency keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create every table."""
    op.create_table(
        "workspaces",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
    )
    op.create_table(
        "api_keys",
        sa.Column("hash", sa.String(64), primary_key=True),
        sa.Column("prefix", sa.String(16), nullable=False),
        sa.Column("workspace", sa.String(64), sa.ForeignKey("workspaces.id"), nullable=False),
        sa.Column("label", sa.String(256), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME),
        sa.Column("last_used_at", TIME),
        sa.Column("revoked_at", TIME),
    )
    op.create_index("ix_api_keys_prefix", "api_keys", ["workspace", "prefix"], unique=True)
    op.create_table(
        "hosts",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("seen_at", TIME, nullable=False),
    )
    _sandboxes()
    op.create_table(
        "snapshots",
        sa.Column("id", sa.String(128), primary_key=True),
        sa.Column("workspace", sa.String(64), sa.ForeignKey("workspaces.id"), nullable=False),
        sa.Column("sandbox_id", sa.String(64), nullable=False),
        sa.Column("template", sa.String(128), nullable=False),
        sa.Column("name", sa.String(128)),
        sa.Column("parent", sa.String(128)),
        sa.Column("vcpus", sa.Integer, nullable=False),
        sa.Column("memory_mib", sa.Integer, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
    )
    op.create_index("ix_snapshots_workspace", "snapshots", ["workspace", "created_at"])
    op.create_index("ix_snapshots_sandbox_id", "snapshots", ["sandbox_id"])
    op.create_table(
        "events",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("workspace", sa.String(64), nullable=False),
        sa.Column("sandbox_id", sa.String(64), nullable=False),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("payload", sa.JSON, nullable=False),
        sa.Column("time", TIME, nullable=False),
    )
    op.create_index("ix_events_sandbox", "events", ["sandbox_id", "seq"])
    op.create_index("ix_events_time", "events", ["time"])
    op.create_table(
        "idempotency_keys",
        sa.Column("workspace", sa.String(64), sa.ForeignKey("workspaces.id"), primary_key=True),
        sa.Column("key", sa.String(256), primary_key=True),
        sa.Column("sandbox_id", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
    )
    op.create_index("ix_idempotency_keys_sandbox_id", "idempotency_keys", ["sandbox_id"])
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])


def _sandboxes() -> None:
    op.create_table(
        "sandboxes",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("workspace", sa.String(64), sa.ForeignKey("workspaces.id"), nullable=False),
        sa.Column("host", sa.String(64), sa.ForeignKey("hosts.id"), nullable=False),
        sa.Column("template", sa.String(128), nullable=False),
        sa.Column("snapshot_id", sa.String(128), nullable=False),
        sa.Column("from_snapshot", sa.String(128)),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("operation", sa.String(16)),
        sa.Column("operation_until", TIME),
        sa.Column("metadata", sa.JSON, nullable=False),
        sa.Column("ttl_seconds", sa.Integer, nullable=False),
        sa.Column("on_timeout", sa.String(16), nullable=False),
        sa.Column("persistent", sa.Boolean, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("last_used_at", TIME, nullable=False),
        sa.Column("expires_at", TIME),
        sa.Column("vcpus", sa.Integer, nullable=False),
        sa.Column("memory_mib", sa.Integer, nullable=False),
        sa.Column("guest_ip", sa.String(64), nullable=False),
        sa.Column("host_tap", sa.String(64), nullable=False),
        sa.Column("mac", sa.String(32), nullable=False),
        sa.Column("boot_mode", sa.String(32), nullable=False),
        sa.Column("boot_ms", sa.Float(53)),
        sa.Column("phases", sa.JSON, nullable=False),
        sa.Column("failure", sa.Text),
        sa.Column("console_tail", sa.Text, nullable=False),
    )
    op.create_index("ix_sandboxes_workspace", "sandboxes", ["workspace", "created_at"])
    op.create_index("ix_sandboxes_host", "sandboxes", ["host", "state"])
    op.create_index("ix_sandboxes_expiry", "sandboxes", ["expires_at"])


def downgrade() -> None:
    """Drop every table."""
    for table in ("idempotency_keys", "events", "snapshots", "sandboxes", "hosts", "api_keys", "workspaces"):
        op.drop_table(table)
