"""Users' snapshots: rows and files together or not at all, tenancy, restarts. Needs nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pandastackd.config import Settings
from pandastackd.control import Control, CreateRequest, Key, Principal
from pandastackd.control.keys import AccessTokens
from pandastackd.errors import Conflict, NotFound, VmmFailed
from pandastackd.store import Store
from tests.unit.fakes import FakeAgent, TurnableClock

pytestmark = pytest.mark.anyio


@pytest.fixture
async def box(control: Control, admin: Principal) -> str:
    return (await control.sandboxes.create(admin, CreateRequest(template="base"))).id


async def test_a_snapshot_outlives_its_sandbox_and_makes_new_ones(
    control: Control, admin: Principal, agent: FakeAgent, box: str
) -> None:
    made = await control.snapshots.create(admin, box, name="before")
    assert (made.sandbox_id, made.name, made.parent_pause_ms) == (box, "before", 12.35)
    assert agent.taken == {made.id}
    await control.sandboxes.delete(admin, box)
    assert [row.id for row in await control.snapshots.listed(admin, sandbox_id=box)] == [made.id]
    row = await control.sandboxes.create(admin, CreateRequest("ignored", from_snapshot=made.id))
    assert (row.from_snapshot, row.snapshot_id, row.template) == (made.id, made.id, "base")
    await control.snapshots.delete(admin, made.id)
    assert not agent.taken
    assert (await control.sandboxes.get(admin, row.id)).state == "running"
    events = [event.type for event in await control.sandboxes.events(admin, box, limit=9)]
    assert events == ["sandbox.running", "snapshot.created", "sandbox.deleted", "snapshot.deleted"]


async def test_a_capture_that_fails_leaves_nothing(
    control: Control, admin: Principal, agent: FakeAgent, box: str
) -> None:
    agent.fail_snapshot = VmmFailed("the VMM refused")
    with pytest.raises(VmmFailed):
        await control.snapshots.create(admin, box)
    assert await control.snapshots.listed(admin) == []
    assert (await control.sandboxes.get(admin, box)).state == "running"


async def test_files_go_when_the_row_cannot_be_written(
    control: Control,
    admin: Principal,
    agent: FakeAgent,
    store: Store,
    box: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise OSError("the database is gone")

    monkeypatch.setattr(store.snapshots, "add", refuse)
    with pytest.raises(OSError, match="gone"):
        await control.snapshots.create(admin, box)
    assert not agent.taken


async def test_one_key_is_one_snapshot(
    control: Control, admin: Principal, agent: FakeAgent, box: str
) -> None:
    key = Key("k", "d")
    made = await asyncio.gather(*(control.snapshots.create(admin, box, key=key) for _ in range(3)))
    assert len({row.id for row in made}) == len(agent.taken) == 1
    with pytest.raises(Conflict, match="different call"):
        await control.snapshots.create(admin, box, key=Key("k", "other"))
    await control.snapshots.delete(admin, made[0].id)
    with pytest.raises(Conflict, match="is deleted"):
        await control.snapshots.create(admin, box, key=key)


async def test_a_restart_makes_rows_and_files_agree(
    control: Control,
    admin: Principal,
    agent: FakeAgent,
    store: Store,
    settings: Settings,
    clock: TurnableClock,
    tmp_path: Path,
    box: str,
) -> None:
    kept = await control.snapshots.create(admin, box)
    lost = await control.snapshots.create(admin, box)
    agent.taken -= {lost.id}
    agent.taken |= {"snap-u-orphan", "unreadable-template"}
    await control.upkeep.reconcile()
    assert "snap-u-orphan" in agent.taken, "a capture may be under way: only a start may judge"
    after = Control(store, agent, settings, AccessTokens(b"s" * 32), now=clock)
    await after.prepare(tmp_path / "admin.key")
    assert agent.taken == {kept.id, "unreadable-template"}
    assert [row.id for row in await after.snapshots.listed(admin)] == [kept.id]
    await after.close()


async def test_another_workspace_sees_none_of_it(
    control: Control, admin: Principal, stranger: str, box: str
) -> None:
    made = await control.snapshots.create(admin, box)
    other = await control.keys.authenticate(stranger)
    assert await control.snapshots.listed(other, sandbox_id=box) == []
    theirs = await control.sandboxes.create(other, CreateRequest(template="base"))
    for call in (
        control.snapshots.get(other, made.id),
        control.snapshots.delete(other, made.id),
        control.snapshots.create(other, box),
        control.sandboxes.rollback(other, theirs.id, made.id),
        control.sandboxes.create(other, CreateRequest("base", from_snapshot=made.id)),
    ):
        with pytest.raises(NotFound):
            await call
