"""One door to the database: an engine set up right, sessions that read, sessions that write.

SQLite: WAL, so readers never wait for the writer; ``synchronous=NORMAL``, so a commit costs no fsync and a
power cut loses at most the last commits, never the file; a writing transaction takes the lock at its first
statement, because one that reads first and upgrades later is refused at once, not queued. PostgreSQL: the
driver's defaults.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

from sqlalchemy import Connection, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from pandastackd.errors import HostFailure
from pandastackd.store.migrate import upgrade

BUSY_MS = 10_000
"""How long a SQLite writer waits for another process before it gives up."""


class Database:
    """An open, migrated database."""

    def __init__(self, engine: AsyncEngine, reader: AsyncEngine) -> None:
        self._engine = engine
        self._reader = reader

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect to ``url`` and bring the schema up to date.

        Raises:
            HostFailure: the address is wrong, the driver is unknown or the database does not answer.
        """
        try:
            shown = make_url(url).render_as_string(hide_password=True)
            engine, reader = _engines(url)
        except (ArgumentError, NoSuchModuleError) as error:
            raise HostFailure(
                f"PANDASTACK_DATABASE_URL cannot be used: {error}; write sqlite+aiosqlite:///FILE or "
                "postgresql+asyncpg://USER:PASSWORD@HOST/NAME",
                code="database_url",
            ) from error
        try:
            async with engine.connect() as connection:
                await connection.run_sync(upgrade)
        except (SQLAlchemyError, OSError) as error:
            await engine.dispose()
            why = " ".join(str(getattr(error, "orig", None) or error).split())
            raise HostFailure(
                f"the database {shown} cannot be opened: {why}; "
                "check that it is there and that we may write it",
                code="database_unavailable",
            ) from error
        return cls(engine, reader)

    async def close(self) -> None:
        """Close every connection."""
        await self._engine.dispose()
        await self._reader.dispose()

    @property
    def engine(self) -> AsyncEngine:
        """The engine itself, for tests that look at the schema."""
        return self._engine

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A session for statements that only read; each sees the newest commit."""
        async with AsyncSession(self._reader, expire_on_commit=False, autoflush=False) as session:
            yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """A transaction: committed when the block ends, rolled back when it raises."""
        async with AsyncSession(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    async def ping(self) -> None:
        """Return when the database answers.

        Raises:
            HostFailure: it does not.
        """
        try:
            async with self.read() as session:
                await session.execute(text("SELECT 1"))
        except (SQLAlchemyError, OSError) as error:
            raise HostFailure(
                "the database does not answer; see the log, and the database's own",
                code="database_unavailable",
            ) from error


def _engines(url: str) -> tuple[AsyncEngine, AsyncEngine]:
    """One engine for transactions and one for single reads, which skip BEGIN and ROLLBACK."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        engine = create_async_engine(parsed, pool_size=10, max_overflow=10, pool_pre_ping=True)
        return engine, engine.execution_options(isolation_level="AUTOCOMMIT")
    timeout = {"timeout": BUSY_MS / 1000}
    # Every transaction of ours ends in commit or rollback, so the pool need not roll back once more.
    engine = create_async_engine(
        parsed, pool_size=4, max_overflow=12, connect_args=timeout, pool_reset_on_return=None
    )
    reader = create_async_engine(
        parsed,
        pool_size=4,
        max_overflow=12,
        connect_args=timeout,
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
    )
    for each in (engine, reader):
        event.listen(each.sync_engine, "connect", _set_up_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_immediate)
    return engine, reader


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    # The driver must not open transactions on its own, or BEGIN IMMEDIATE below would be the second.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", f"busy_timeout={BUSY_MS}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
