"""Forks: whose child a sandbox is, fork trees, and a lineage that outlives sandboxes. Answers of repeatable calls."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add what snapshots and forks need; every sandbox there is becomes the root of a tree of its own."""
    op.add_column("sandboxes", sa.Column("parent_id", sa.String(64)))
    op.add_column("sandboxes", sa.Column("root_id", sa.String(64), nullable=False, server_default=""))
    op.add_column("sandboxes", sa.Column("tree_id", sa.String(64)))
    op.execute("UPDATE sandboxes SET root_id = id")
    op.create_index("ix_sandboxes_root_id", "sandboxes", ["root_id"])
    op.create_index("ix_sandboxes_tree_id", "sandboxes", ["tree_id"])
    op.add_column("snapshots", sa.Column("host", sa.String(64), nullable=False, server_default="local"))
    op.add_column("snapshots", sa.Column("parent_pause_ms", sa.Float(53)))
    op.add_column("snapshots", sa.Column("capture_ms", sa.Float(53)))
    op.add_column("idempotency_keys", sa.Column("answer", sa.JSON))
    op.create_table(
        "lineage",
        sa.Column("sandbox_id", sa.String(64), primary_key=True),
        sa.Column("workspace", sa.String(64), nullable=False),
        sa.Column("parent_id", sa.String(64)),
        sa.Column("root_id", sa.String(64), nullable=False),
        sa.Column("template", sa.String(128), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("deleted_at", TIME),
    )
    op.create_index("ix_lineage_root", "lineage", ["workspace", "root_id"])
    op.create_index("ix_lineage_deleted_at", "lineage", ["deleted_at"])
    op.execute(
        "INSERT INTO lineage (sandbox_id, workspace, parent_id, root_id, template, kind, created_at)"
        " SELECT id, workspace, NULL, id, template, 'create', created_at FROM sandboxes"
    )
    op.create_table(
        "fork_trees",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("workspace", sa.String(64), nullable=False),
        sa.Column("winner", sa.String(64)),
        sa.Column("created_at", TIME, nullable=False),
    )
    op.create_index("ix_fork_trees_created_at", "fork_trees", ["created_at"])


def downgrade() -> None:
    """Drop it again."""
    op.drop_table("fork_trees")
    op.drop_table("lineage")
    op.drop_index("ix_sandboxes_tree_id", "sandboxes")
    op.drop_index("ix_sandboxes_root_id", "sandboxes")
    columns = {
        "idempotency_keys": ("answer",),
        "snapshots": ("host", "parent_pause_ms", "capture_ms"),
        "sandboxes": ("parent_id", "root_id", "tree_id"),
    }
    for table, names in columns.items():
        for name in names:
            op.drop_column(table, name)
