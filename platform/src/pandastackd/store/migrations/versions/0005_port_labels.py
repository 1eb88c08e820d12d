"""Port labels: what owners call the ports of their sandboxes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("sandboxes", sa.Column("ports", sa.JSON, nullable=False, server_default="{}"))


def downgrade() -> None:
    """Drop it again."""
    op.drop_column("sandboxes", "ports")
