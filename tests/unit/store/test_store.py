"""The store on SQLite and on PostgreSQL. The latter needs the programs initdb and pg_ctl."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, text

from pandastackd.control import rows
from pandastackd.errors import HostFailure
from pandastackd.store import ApiKeyRow, EventRow, IdempotencyRow, SandboxRow, Store
from pandastackd.store.migrate import MIGRATIONS
from pandastackd.store.models import Base

pytestmark = pytest.mark.anyio

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LEASE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """A private PostgreSQL server, reached by a socket in its own folder."""
    if not (shutil.which("initdb") and shutil.which("pg_ctl")):
        pytest.skip("needs the programs initdb and pg_ctl")
    as_user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        if as_user:
            os.chown(folder, 65534, 65534)
        data = f"{folder}/data"
        quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
        subprocess.run([*as_user, "initdb", "-D", data, "-A", "trust", "-U", "test"], **quiet)  # type: ignore[call-overload]
        options = f"-k {folder} -c listen_addresses='' -c fsync=off"
        subprocess.run([*as_user, "pg_ctl", "-D", data, "-o", options, "-w", "start"], **quiet)  # type: ignore[call-overload]
        try:
            yield f"postgresql+asyncpg://test@/postgres?host={folder}"
        finally:
            subprocess.run([*as_user, "pg_ctl", "-D", data, "-m", "immediate", "stop"], **quiet)  # type: ignore[call-overload]


@pytest.fixture(params=["sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "sqlite":
        url = f"sqlite+aiosqlite:///{tmp_path}/test.db"
    else:
        url = request.getfixturevalue("postgres")
    store = await Store.open(url)
    async with store.database.write() as session:
        for table in reversed(Base.metadata.sorted_tables):
            await session.execute(table.delete())
    await store.keys.ensure_workspace("w1", name="one", now=NOW)
    await store.keys.ensure_workspace("w2", name="two", now=NOW)
    await store.hosts.seen("h1", now=NOW)
    yield store
    await store.close()


def _row(sandbox_id: str, *, workspace: str = "w1", ttl: int = 60, state: str = "running") -> SandboxRow:
    row = rows.fresh(
        sandbox_id=sandbox_id,
        workspace=workspace,
        host="h1",
        template="base",
        snapshot_id="snap",
        from_snapshot=None,
        vcpus=1,
        memory_mib=512,
        metadata={"a": "ü"},
        ttl_seconds=ttl,
        persistent=False,
        now=NOW,
        lease=LEASE,
    )
    row.state, row.operation, row.operation_until = state, None, None
    return row


async def test_the_migrations_make_exactly_the_models(store: Store) -> None:
    def difference(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), Base.metadata))

    async with store.database.engine.connect() as connection:
        assert await connection.run_sync(difference) == []


async def test_opening_again_changes_nothing(store: Store, tmp_path: Path) -> None:
    await store.sandboxes.add(_row("s1"))
    url = store.database.engine.url.render_as_string(hide_password=False)
    again = await asyncio.gather(*(Store.open(url) for _ in range(3)))
    for each in again:
        assert await each.sandboxes.get("s1") is not None
        await each.close()


async def test_sqlite_is_set_up_for_many_readers(tmp_path: Path) -> None:
    store = await Store.open(f"sqlite+aiosqlite:///{tmp_path}/x.db")
    async with store.database.write() as session:
        found = [
            (await session.execute(text(f"PRAGMA {name}"))).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert found == ["wal", 1, 1]
    await store.close()


async def test_what_goes_in_comes_out(store: Store) -> None:
    await store.sandboxes.add(_row("s1"))
    row = await store.sandboxes.owned("w1", "s1")
    assert row is not None
    assert (row.labels, row.created_at, row.expires_at) == ({"a": "ü"}, NOW, NOW + timedelta(seconds=60))
    assert await store.sandboxes.owned("w2", "s1") is None
    assert [each.id for each in await store.sandboxes.listed("w1")] == ["s1"]
    assert await store.sandboxes.listed("w2") == []
    assert await store.sandboxes.counts() == {"running": 1}


async def test_a_change_happens_only_from_the_expected_state(store: Store) -> None:
    await store.sandboxes.add(_row("s1"))
    event = EventRow(workspace="w1", sandbox_id="s1", type="t", payload={"n": 1}, time=NOW)
    missed = await store.sandboxes.change("s1", expected=["paused"], values={"state": "failed"}, event=event)
    assert missed is None
    assert await store.events.tail("w1", "s1", limit=5) == []
    changed = await store.sandboxes.change(
        "s1", expected=["running"], values={"state": "paused"}, event=event
    )
    assert changed is not None
    assert changed.state == "paused"
    assert [each.payload for each in await store.events.tail("w1", "s1", limit=5)] == [{"n": 1}]
    assert await store.events.tail("w2", "s1", limit=5) == []


async def test_of_many_claims_one_wins_until_its_time_is_up(store: Store) -> None:
    await store.sandboxes.add(_row("s1"))

    async def claim(now: datetime) -> SandboxRow | None:
        return await store.sandboxes.claim("s1", expected=["running"], operation="x", now=now, lease=LEASE)

    won = [each for each in await asyncio.gather(*(claim(NOW) for _ in range(8))) if each is not None]
    assert len(won) == 1
    assert await claim(NOW + LEASE - timedelta(seconds=1)) is None
    assert await claim(NOW + LEASE) is not None
    await store.sandboxes.release("s1", "x")
    assert await claim(NOW) is not None


async def test_expired_sandboxes_are_given_to_one_claimer_each(store: Store) -> None:
    for number in range(30):
        await store.sandboxes.add(_row(f"s{number}", ttl=1 if number < 20 else 1000))

    async def claim() -> list[str]:
        claimed = await store.sandboxes.claim_expired(
            expected=["running"], stopping="stopping", now=NOW + timedelta(seconds=5), lease=LEASE, limit=6
        )
        return [row.id for row in claimed]

    batches = [*await asyncio.gather(*(claim() for _ in range(8))), await claim()]
    ids = [each for batch in batches for each in batch]
    assert len(ids) == len(set(ids)) == 20


async def test_one_idempotency_key_makes_one_sandbox(store: Store) -> None:
    def key(sandbox_id: str) -> IdempotencyRow:
        return IdempotencyRow(workspace="w1", key="k", sandbox_id=sandbox_id, digest="d", created_at=NOW)

    added = await asyncio.gather(
        *(store.sandboxes.add(_row(f"s{n}"), idempotency=key(f"s{n}")) for n in range(5))
    )
    assert sorted(added) == [False] * 4 + [True]
    assert len(await store.sandboxes.listed("w1")) == 1
    used = await store.idempotency.get("w1", "k")
    assert used is not None
    assert await store.idempotency.get("w2", "k") is None
    await store.sandboxes.remove(used.sandbox_id)
    assert await store.idempotency.get("w1", "k") is not None
    await store.idempotency.forget(before=NOW + LEASE)
    assert await store.idempotency.get("w1", "k") is None


async def test_keys_by_hash_and_prefix(store: Store) -> None:
    def key(digest: str, prefix: str, workspace: str = "w1") -> ApiKeyRow:
        return ApiKeyRow(
            hash=digest,
            prefix=prefix,
            workspace=workspace,
            label="x",
            created_at=NOW,
            expires_at=None,
            last_used_at=None,
            revoked_at=None,
        )

    assert await store.keys.add(key("h1", "p1"))
    assert not await store.keys.add(key("h2", "p1")), "a shown prefix names one key of a workspace"
    assert await store.keys.add(key("h3", "p1", "w2"))
    assert await store.keys.revoke("w1", "p1", now=NOW) == "h1"
    assert await store.keys.revoke("w1", "p1", now=NOW) is None
    assert await store.keys.listed("w1") == []
    assert len(await store.keys.listed("w2")) == 1


async def test_naive_times_are_refused(store: Store) -> None:
    row = _row("s1")
    row.last_used_at = datetime(2030, 1, 1)
    with pytest.raises(Exception, match="naive"):
        await store.sandboxes.add(row)


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("nonsense", "PANDASTACK_DATABASE_URL cannot be used"),
        ("mysql+what://x/y", "PANDASTACK_DATABASE_URL cannot be used"),
        ("sqlite+aiosqlite:////nowhere/at/all.db", "cannot be opened"),
        ("postgresql+asyncpg://me:sesame@127.0.0.1:1/x", "cannot be opened"),
    ],
)
async def test_a_database_that_cannot_be_used_is_one_clear_error(url: str, part: str) -> None:
    with pytest.raises(HostFailure, match=part) as failure:
        await Store.open(url)
    assert "sesame" not in failure.value.message
    assert "\n" not in failure.value.message


async def test_keys_of_calls_are_taken_once_and_taken_over_when_abandoned(store: Store) -> None:
    def row(digest: str = "d", minutes: int = 0) -> IdempotencyRow:
        at = NOW + timedelta(minutes=minutes)
        return IdempotencyRow(workspace="w1", key="k", sandbox_id="", digest=digest, created_at=at)

    keys = store.idempotency
    taken = await asyncio.gather(*(keys.begin(row(), abandoned_before=NOW) for _ in range(4)))
    assert sorted(taken) == [False, False, False, True]
    later = NOW + timedelta(minutes=10)
    assert not await keys.begin(row("other", 20), abandoned_before=later)
    assert await keys.begin(row(minutes=20), abandoned_before=later)
    assert not await keys.begin(row(minutes=20), abandoned_before=later)
    await keys.finish("w1", "k", {"made": ["x"]})
    assert not await keys.begin(row(minutes=99), abandoned_before=NOW + timedelta(days=1))
    found = await keys.get("w1", "k")
    assert found is not None
    assert found.answer == {"made": ["x"]}
    await keys.free("w1", "k")
    assert await keys.begin(row(), abandoned_before=NOW)


async def test_the_idle_are_claimed_once_and_not_deleted(store: Store) -> None:
    for index in range(10):
        idle = _row(f"s{index}", ttl=1)
        idle.on_timeout = "hibernate"
        await store.sandboxes.add(idle)
    at = NOW + timedelta(minutes=1)
    states = ["running", "paused"]
    reaped = await store.sandboxes.claim_expired(
        expected=[*states, "hibernated"], stopping="stopping", spared=states, now=at, lease=LEASE, limit=20
    )
    assert reaped == []
    claims = await asyncio.gather(
        *(store.sandboxes.claim_idle(expected=states, now=at, lease=LEASE, limit=4) for _ in range(4))
    )
    ids = [row.id for claim in claims for row in claim]
    assert len(ids) == len(set(ids)) == 10


async def test_a_late_use_does_not_shorten_a_sleep(store: Store) -> None:
    await store.sandboxes.add(_row("s1", state="hibernated"))
    before = await store.sandboxes.get("s1")
    await store.sandboxes.touch("s1", now=NOW + timedelta(seconds=5), expected=["running"])
    after = await store.sandboxes.get("s1")
    assert before is not None
    assert after is not None
    assert after.expires_at == before.expires_at


async def test_sandboxes_of_the_first_schema_become_roots(tmp_path: Path) -> None:
    file = tmp_path / "old.db"
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with create_engine(f"sqlite:///{file}").begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        moment = "2030-01-01 00:00:00"
        connection.execute(text(f"INSERT INTO workspaces VALUES ('w1', 'one', '{moment}')"))
        connection.execute(text(f"INSERT INTO hosts VALUES ('h1', '{moment}', '{moment}')"))
        connection.execute(
            text(
                "INSERT INTO sandboxes VALUES ('s1', 'w1', 'h1', 'base', 'snap', NULL, 'running', NULL, NULL, '{}', 60,"
                f" 'delete', 0, '{moment}', '{moment}', NULL, 1, 512, '', '', '', '', NULL, '{{}}', NULL, '')"
            )
        )
    store = await Store.open(f"sqlite+aiosqlite:///{file}")
    row = await store.sandboxes.get("s1")
    assert row is not None
    assert (row.root_id, row.parent_id, row.tree_id) == ("s1", None, None)
    (line,) = await store.lineage.tree("w1", "s1")
    assert (line.sandbox_id, line.kind, line.deleted_at) == ("s1", "create", None)
    await store.close()
