"""Brings the schema up to date, at every start, by the migrations packaged beside this file.

Several processes may start at once: the first takes a lock in the database and migrates, the others wait
and find nothing left to do.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

MIGRATIONS = Path(__file__).parent / "migrations"

_LOCK = 7_305_021_482_116
"""Any number that nothing else in the database uses as an advisory lock."""


def upgrade(connection: Connection) -> None:
    """Run every migration that ``connection``'s database has not had yet, in one transaction."""
    with connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
