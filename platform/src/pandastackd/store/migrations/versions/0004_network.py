"""What a sandbox's network may do."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Every sandbox there is has the default: the public internet, and open ports."""
    op.add_column("sandboxes", sa.Column("network", sa.JSON, nullable=False, server_default="{}"))


def downgrade() -> None:
    """Drop it again."""
    op.drop_column("sandboxes", "network")
