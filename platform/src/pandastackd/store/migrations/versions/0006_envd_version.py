"""Sandboxes: the envd version that the guest's own agent tells."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add it; what every agent before this told is the default."""
    op.add_column(
        "sandboxes", sa.Column("envd_version", sa.String(32), nullable=False, server_default="0.6.7")
    )


def downgrade() -> None:
    """Drop it again."""
    op.drop_column("sandboxes", "envd_version")
