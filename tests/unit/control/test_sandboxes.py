"""The life of sandboxes under time, deaths, restarts and callers that leave. Needs nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from pandastackd.config import Settings
from pandastackd.control import Control, CreateRequest, Principal, SandboxRow
from pandastackd.control.keys import AccessTokens
from pandastackd.errors import (
    Conflict,
    GuestUnreachable,
    IllegalTransition,
    InsufficientStorage,
    NoCapacity,
    NotFound,
    VmmFailed,
)
from pandastackd.store import SnapshotRow, Store
from tests.unit.fakes import FakeAgent, TurnableClock, eventually

pytestmark = pytest.mark.anyio


async def _make(control: Control, admin: Principal, **wanted: object) -> SandboxRow:
    return await control.sandboxes.create(admin, CreateRequest(template="base", **wanted))  # type: ignore[arg-type]


async def test_an_expired_sandbox_is_reaped(
    control: Control, admin: Principal, clock: TurnableClock, agent: FakeAgent
) -> None:
    mortal = await _make(control, admin, ttl_seconds=60)
    eternal = await _make(control, admin, ttl_seconds=60, persistent=True)
    clock.turn(59)
    await control.upkeep.reap()
    assert len(agent.sandboxes) == 2
    clock.turn(1)
    await control.upkeep.reap()
    assert set(agent.sandboxes) == {eternal.id}
    with pytest.raises(NotFound):
        await control.sandboxes.get(admin, mortal.id)
    events = await control.sandboxes.events(admin, mortal.id, limit=9)
    assert events[-1].payload == {"reason": "expired"}


async def test_use_begins_the_time_to_live_again(
    control: Control, admin: Principal, clock: TurnableClock, agent: FakeAgent
) -> None:
    row = await _make(control, admin, ttl_seconds=60)
    clock.turn(50)
    async with control.sandboxes.use(admin, row.id):
        assert (await control.sandboxes.lifetime(admin, row.id)).idle_seconds == 0
    await control.settle()
    clock.turn(50)
    await control.upkeep.reap()
    assert row.id in agent.sandboxes
    assert (await control.sandboxes.lifetime(admin, row.id)).idle_seconds == 50
    clock.turn(10)
    await control.upkeep.reap()
    assert not agent.sandboxes


async def test_a_use_that_lasts_is_written_again_on_the_way(
    control: Control, admin: Principal, clock: TurnableClock, agent: FakeAgent
) -> None:
    row = await _make(control, admin, ttl_seconds=1)
    async with control.sandboxes.use(admin, row.id):
        for _ in range(3):
            await asyncio.sleep(0.15)  # longer than a tenth of the time to live, in real time
            clock.turn(0.9)
            await control.usage.refresh()
            await control.settle()
            await control.upkeep.reap()
            assert row.id in agent.sandboxes


async def test_a_delete_that_failed_is_finished_by_the_reaper(
    control: Control,
    admin: Principal,
    clock: TurnableClock,
    agent: FakeAgent,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = await _make(control, admin)

    async def stuck(_: str) -> None:
        raise GuestUnreachable("not now")

    with monkeypatch.context() as patch:
        patch.setattr(agent, "delete", stuck)
        with pytest.raises(GuestUnreachable):
            await control.sandboxes.delete(admin, row.id)
    assert (await control.sandboxes.get(admin, row.id)).state == "stopping"
    await control.upkeep.reap()
    assert row.id in agent.sandboxes, "the first deleter's claim still holds"
    clock.turn(301)
    await control.upkeep.reap()
    assert row.id not in agent.sandboxes


@pytest.mark.parametrize(
    "error", [VmmFailed("x"), GuestUnreachable("x"), InsufficientStorage("x"), RuntimeError("x")]
)
async def test_a_create_that_fails_leaves_nothing(
    control: Control, admin: Principal, agent: FakeAgent, error: Exception
) -> None:
    agent.fail_create = error  # type: ignore[assignment]
    with pytest.raises(type(error)):
        await _make(control, admin)
    assert await control.sandboxes.listed(admin) == []
    assert agent.deleted == [agent.created[0].id]


async def test_a_full_host_is_refused_before_anything_is_made(
    control: Control, admin: Principal, agent: FakeAgent
) -> None:
    agent.host = replace(agent.host, slots_used=agent.host.slots_total)
    with pytest.raises(NoCapacity) as full:
        await _make(control, admin)
    assert full.value.retry_after_seconds == 5
    agent.host = replace(agent.host, slots_used=0, disk_free_mib=10)
    with pytest.raises(InsufficientStorage, match="needs 64 MiB, 10 MiB free"):
        await _make(control, admin)
    assert not agent.created


async def test_a_caller_that_leaves_mid_create_leaves_nothing(
    control: Control, admin: Principal, agent: FakeAgent
) -> None:
    agent.gate = asyncio.Event()
    call = asyncio.create_task(_make(control, admin))
    await eventually(lambda: bool(agent.created), "the create has begun")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    agent.gate.set()
    await control.settle()
    assert not agent.sandboxes
    assert await control.sandboxes.listed(admin) == []


async def test_a_caller_that_leaves_can_come_back_with_its_key(
    control: Control, admin: Principal, agent: FakeAgent
) -> None:
    agent.gate = asyncio.Event()
    call = asyncio.create_task(_make(control, admin, idempotency_key="k", digest="d"))
    await eventually(lambda: bool(agent.created), "the create has begun")
    call.cancel()
    agent.gate.set()
    row = await _make(control, admin, idempotency_key="k", digest="d")
    assert row.state == "running"
    assert len(agent.created) == 1


async def test_a_sandbox_deleted_while_it_is_created(
    control: Control, admin: Principal, agent: FakeAgent
) -> None:
    agent.gate = asyncio.Event()
    call = asyncio.create_task(_make(control, admin))
    await eventually(lambda: bool(agent.created), "the create has begun")
    await control.sandboxes.delete(admin, agent.created[0].id)
    agent.gate.set()
    with pytest.raises(Conflict, match="deleted while it was created"):
        await call
    assert not agent.sandboxes


async def test_a_move_that_fails_changes_nothing_and_frees_the_row(
    control: Control, admin: Principal, agent: FakeAgent
) -> None:
    row = await _make(control, admin)
    agent.fail_move = VmmFailed("the VMM refused")
    with pytest.raises(VmmFailed):
        await control.sandboxes.pause(admin, row.id)
    seen = await control.sandboxes.get(admin, row.id)
    assert (seen.state, seen.operation) == ("running", None)
    agent.fail_move = None
    assert (await control.sandboxes.pause(admin, row.id)).state == "paused"
    with pytest.raises(IllegalTransition):
        await control.sandboxes.pause(admin, row.id)


async def test_of_two_movers_one_moves(
    control: Control, admin: Principal, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = await _make(control, admin)
    gate, pause = asyncio.Event(), agent.pause

    async def slow(sandbox_id: str) -> object:
        await gate.wait()
        return await pause(sandbox_id)

    monkeypatch.setattr(agent, "pause", slow)
    first = asyncio.create_task(control.sandboxes.pause(admin, row.id))
    await asyncio.sleep(0.1)
    with pytest.raises(Conflict, match="moved by another call"):
        await control.sandboxes.pause(admin, row.id)
    gate.set()
    assert (await first).state == "paused"


async def test_restart_makes_rows_and_host_agree(
    control: Control,
    admin: Principal,
    agent: FakeAgent,
    store: Store,
    settings: Settings,
    clock: TurnableClock,
    tmp_path: Path,
) -> None:
    kept = await _make(control, admin)
    lost = await _make(control, admin)
    died = await _make(control, admin)
    paused = await _make(control, admin)
    stopping = await _make(control, admin)
    unknown = await _make(control, admin)
    gate = agent.gate = asyncio.Event()
    cut_off = asyncio.create_task(_make(control, admin))
    await eventually(lambda: len(agent.created) == 7, "the create has begun")
    half_made = agent.created[-1]
    # What a crash leaves behind:
    agent.gate = None
    await agent.create(half_made)
    del agent.sandboxes[lost.id]
    agent.die(died.id)
    await agent.pause(paused.id)
    await store.sandboxes.change(stopping.id, expected=["running"], values={"state": "stopping"})
    await store.sandboxes.remove(unknown.id)

    after = Control(store, agent, settings, AccessTokens(b"s" * 32), now=clock)
    await after.prepare(tmp_path / "admin.key")
    gate.set()
    with pytest.raises(Conflict):
        await cut_off
    states = {row.id: row.state for row in await after.sandboxes.listed(admin)}
    assert states == {kept.id: "running", lost.id: "failed", died.id: "failed", paused.id: "paused"}
    assert "machine was gone" in str((await after.sandboxes.get(admin, lost.id)).failure)
    assert (await after.sandboxes.get(admin, died.id)).console_tail.endswith("the last line")
    assert set(agent.sandboxes) == {kept.id, died.id, paused.id}
    await after.close()


async def test_reconciling_while_creates_run_harms_none(
    control: Control, admin: Principal, agent: FakeAgent
) -> None:
    agent.gate = asyncio.Event()
    calls = [asyncio.create_task(_make(control, admin)) for _ in range(3)]
    await eventually(lambda: len(agent.created) == 3, "the creates have begun")
    await control.upkeep.reconcile()
    agent.gate.set()
    rows = await asyncio.gather(*calls)
    await control.upkeep.reconcile()
    assert {row.id for row in await control.sandboxes.listed(admin)} == {row.id for row in rows}
    assert {row.state for row in await control.sandboxes.listed(admin)} == {"running"}


async def test_two_processes_reap_each_sandbox_once(
    control: Control,
    admin: Principal,
    agent: FakeAgent,
    store: Store,
    settings: Settings,
    clock: TurnableClock,
) -> None:
    for _ in range(20):
        await _make(control, admin, ttl_seconds=1)
    agent.deleted.clear()
    clock.turn(2)
    other = Control(store, agent, settings, AccessTokens(b"s" * 32), now=clock)
    await asyncio.gather(*(each.upkeep.reap() for each in (control, other) * 3))
    assert len(agent.deleted) == len(set(agent.deleted)) == 20
    await other.close()


async def test_a_snapshot_of_another_workspace_is_not_there(
    control: Control, admin: Principal, stranger: str, store: Store, clock: TurnableClock, agent: FakeAgent
) -> None:
    for workspace in ("default", "other"):
        await store.snapshots.add(
            SnapshotRow(
                id=f"snap-{workspace}",
                workspace=workspace,
                host="local",
                sandbox_id="x",
                template="base",
                name=None,
                parent=None,
                vcpus=2,
                memory_mib=256,
                size_bytes=1,
                created_at=clock(),
            )
        )
    row = await _make(control, admin, from_snapshot="snap-default")
    assert (row.snapshot_id, row.template) == ("snap-default", "base")
    with pytest.raises(NotFound):
        await _make(control, admin, from_snapshot="snap-other")
    assert len(agent.created) == 1


async def test_the_environment_is_handed_on_and_not_stored(
    control: Control, admin: Principal, agent: FakeAgent, tmp_path: Path
) -> None:
    await _make(control, admin, env={"API_SECRET": "hunter2-hunter2"})
    assert agent.created[0].env == {"API_SECRET": "hunter2-hunter2"}
    assert len(agent.created[0].access_token) == 64
    for file in tmp_path.glob("test.db*"):
        assert b"hunter2" not in file.read_bytes()
        assert agent.created[0].access_token.encode() not in file.read_bytes()


async def test_the_loops_run_by_themselves(
    control: Control, admin: Principal, agent: FakeAgent, clock: TurnableClock
) -> None:
    expiring = await _make(control, admin, ttl_seconds=1)
    dying = await _make(control, admin)
    control.start()
    clock.turn(2)
    agent.die(dying.id)
    await eventually(lambda: expiring.id not in agent.sandboxes, "the expired one is reaped")
    for _ in range(200):
        if (await control.sandboxes.get(admin, dying.id)).state == "failed":
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the dead one was never noticed")
