"""What a sandbox's time to live counts from, and whether traffic wakes it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Every sandbox there is counts from its last use, and is woken by traffic, as before."""
    op.add_column("sandboxes", sa.Column("ttl_from", sa.String(8), nullable=False, server_default="use"))
    op.add_column(
        "sandboxes", sa.Column("wake_on_traffic", sa.Boolean, nullable=False, server_default=sa.true())
    )


def downgrade() -> None:
    """Drop it again."""
    op.drop_column("sandboxes", "ttl_from")
    op.drop_column("sandboxes", "wake_on_traffic")
