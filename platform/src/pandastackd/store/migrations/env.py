"""Alembic's entry: runs the migrations on the connection that ``store.migrate`` hands over."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from pandastackd.store.models import Base


def run() -> None:
    """Migrate inside the caller's transaction."""
    connection: Connection | None = context.config.attributes.get("connection")
    if connection is None:
        raise RuntimeError("migrations are run by pandastackd itself, at start")
    context.configure(connection=connection, target_metadata=Base.metadata, transactional_ddl=False)
    context.run_migrations()


run()
