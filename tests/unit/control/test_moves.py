"""Hibernate, wake and rollback: one waker, failures that change nothing, time that ends in sleep. Needs nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pandastackd.config import Settings
from pandastackd.control import Control, CreateRequest, ForkRequest, Principal, SandboxRow
from pandastackd.control.keys import AccessTokens
from pandastackd.errors import Conflict, IllegalTransition, InsufficientStorage, VmmFailed
from pandastackd.lifecycle import State
from pandastackd.store import Store
from tests.unit.fakes import FakeAgent, TurnableClock, eventually

pytestmark = pytest.mark.anyio

DAY = 24 * 3600


@pytest.fixture
async def sleepy(control: Control, admin: Principal) -> SandboxRow:
    wanted = CreateRequest("base", ttl_seconds=60, on_timeout="hibernate")
    return await control.sandboxes.create(admin, wanted)


async def test_use_wakes_once_and_looking_never(
    control: Control, admin: Principal, agent: FakeAgent, sleepy: SandboxRow
) -> None:
    assert (await control.sandboxes.hibernate(admin, sleepy.id)).state == "hibernated"
    with pytest.raises(IllegalTransition):
        await control.sandboxes.hibernate(admin, sleepy.id)
    await control.sandboxes.get(admin, sleepy.id)
    await control.sandboxes.listed(admin)
    await control.sandboxes.lifetime(admin, sleepy.id)
    await control.lineage.tree(admin, sleepy.id)
    assert agent.moves == ["hibernate"]
    agent.gate = asyncio.Event()

    async def use() -> None:
        async with control.sandboxes.use(admin, sleepy.id) as guest:
            assert guest is agent.guests[sleepy.id]

    uses = [asyncio.create_task(use()) for _ in range(5)]
    await eventually(lambda: agent.moves == ["hibernate", "wake"], "the wake has begun")
    uses.append(asyncio.create_task(use()))
    uses[0].cancel()
    agent.gate.set()
    await asyncio.gather(*uses, return_exceptions=True)
    assert [use.cancelled() for use in uses] == [True, *[False] * 5]
    assert agent.moves == ["hibernate", "wake"]
    assert (await control.sandboxes.wake(admin, sleepy.id)).state == "running", "awake already"
    events = [event.type for event in await control.sandboxes.events(admin, sleepy.id, limit=9)]
    assert events == ["sandbox.running", "sandbox.hibernated", "sandbox.woken"]


async def test_two_processes_wake_once(
    control: Control,
    admin: Principal,
    agent: FakeAgent,
    store: Store,
    settings: Settings,
    clock: TurnableClock,
    sleepy: SandboxRow,
) -> None:
    await control.sandboxes.hibernate(admin, sleepy.id)
    other = Control(store, agent, settings, AccessTokens(b"s" * 32), now=clock)
    await asyncio.gather(*(each.sandboxes.wake(admin, sleepy.id) for each in (control, other) * 3))
    assert agent.moves == ["hibernate", "wake"]
    await other.close()


async def test_a_use_that_comes_while_it_falls_asleep_wakes_it_again(
    control: Control, admin: Principal, agent: FakeAgent, sleepy: SandboxRow
) -> None:
    agent.gate = asyncio.Event()
    falling = asyncio.create_task(control.sandboxes.hibernate(admin, sleepy.id))
    await eventually(lambda: agent.moves == ["hibernate"], "the hibernation has begun")
    waking = asyncio.create_task(control.sandboxes.wake(admin, sleepy.id))
    await asyncio.sleep(0.1)
    agent.gate.set()
    await falling
    assert (await waking).state == "running"
    assert agent.moves == ["hibernate", "wake"]


async def test_failures_leave_it_as_it_was(
    control: Control, admin: Principal, agent: FakeAgent, sleepy: SandboxRow
) -> None:
    agent.fail_move = InsufficientStorage("the disk is full")
    with pytest.raises(InsufficientStorage):
        await control.sandboxes.hibernate(admin, sleepy.id)
    seen = await control.sandboxes.get(admin, sleepy.id)
    assert (seen.state, seen.operation) == ("running", None)
    agent.fail_move = None
    await control.sandboxes.hibernate(admin, sleepy.id)
    agent.fail_move = VmmFailed("it did not start")
    with pytest.raises(VmmFailed):
        async with control.sandboxes.use(admin, sleepy.id):
            pass
    seen = await control.sandboxes.get(admin, sleepy.id)
    assert (seen.state, seen.operation) == ("hibernated", None)


async def test_a_paused_one_is_not_woken_but_can_be_captured(
    control: Control, admin: Principal, sleepy: SandboxRow
) -> None:
    await control.sandboxes.pause(admin, sleepy.id)
    with pytest.raises(Conflict, match="resume it first"):
        async with control.sandboxes.use(admin, sleepy.id):
            pass
    await control.snapshots.create(admin, sleepy.id)
    await control.forks.fork(admin, sleepy.id, ForkRequest())
    assert (await control.sandboxes.get(admin, sleepy.id)).state == "paused"


async def test_time_ends_in_sleep_when_asked_for(
    control: Control, admin: Principal, agent: FakeAgent, clock: TurnableClock, sleepy: SandboxRow
) -> None:
    clock.turn(60)
    await control.upkeep.reap()
    seen = await control.sandboxes.get(admin, sleepy.id)
    assert (seen.state, seen.operation) == ("hibernated", None)
    for _ in range(29):
        clock.turn(DAY)
        await control.upkeep.reap()
    seen = await control.sandboxes.get(admin, sleepy.id)
    assert (await control.sandboxes.set_lifetime(seen, ttl_seconds=5)).ttl_seconds == 5
    clock.turn(29 * DAY)
    await control.upkeep.reap()
    assert sleepy.id in agent.sandboxes, "the time to live does not count in sleep"
    clock.turn(DAY)
    await control.upkeep.reap()
    assert sleepy.id not in agent.sandboxes, "but not for ever"


async def test_what_cannot_fall_asleep_goes_on_and_is_tried_again(
    control: Control, admin: Principal, agent: FakeAgent, clock: TurnableClock, sleepy: SandboxRow
) -> None:
    agent.fail_move = InsufficientStorage("the disk is full")
    clock.turn(60)
    await control.upkeep.reap()
    await control.upkeep.reap()
    assert agent.moves == ["hibernate"], "not every second"
    seen = await control.sandboxes.get(admin, sleepy.id)
    assert (seen.state, seen.operation) == ("running", None)
    agent.fail_move = None
    clock.turn(60)
    await control.upkeep.reap()
    assert (await control.sandboxes.get(admin, sleepy.id)).state == "hibernated"


async def test_one_that_is_deleted_at_its_time_is_so_in_sleep_too(
    control: Control, admin: Principal, agent: FakeAgent, clock: TurnableClock
) -> None:
    row = await control.sandboxes.create(admin, CreateRequest("base", ttl_seconds=60))
    await control.sandboxes.hibernate(admin, row.id)
    clock.turn(60)
    await control.upkeep.reap()
    assert not agent.sandboxes


async def test_rollback(control: Control, admin: Principal, agent: FakeAgent, sleepy: SandboxRow) -> None:
    snapshot = await control.snapshots.create(admin, sleepy.id)
    row = await control.sandboxes.rollback(admin, sleepy.id, snapshot.id)
    assert (row.id, row.state, row.snapshot_id) == (sleepy.id, "running", snapshot.id)
    agent.die(sleepy.id)
    await control.upkeep.watch()
    assert (await control.sandboxes.get(admin, sleepy.id)).state == "failed"
    row = await control.sandboxes.rollback(admin, sleepy.id, snapshot.id)
    assert (row.state, row.failure) == ("running", None)


async def test_a_rollback_that_leaves_it_asleep_says_so(
    control: Control,
    admin: Principal,
    agent: FakeAgent,
    sleepy: SandboxRow,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    snapshot = await control.snapshots.create(admin, sleepy.id)

    async def half(sandbox_id: str, _: str) -> None:
        agent._set(sandbox_id, State.HIBERNATED)
        raise VmmFailed("neither the earlier instant nor the present one would start")

    monkeypatch.setattr(agent, "rollback", half)
    with pytest.raises(VmmFailed):
        await control.sandboxes.rollback(admin, sleepy.id, snapshot.id)
    seen = await control.sandboxes.get(admin, sleepy.id)
    assert (seen.state, seen.operation) == ("hibernated", None)


async def test_a_restart_follows_the_host(
    control: Control,
    admin: Principal,
    agent: FakeAgent,
    store: Store,
    settings: Settings,
    clock: TurnableClock,
    tmp_path: Path,
    sleepy: SandboxRow,
) -> None:
    awake = await control.sandboxes.create(admin, CreateRequest("base"))
    lost = await control.sandboxes.create(admin, CreateRequest("base"))
    for row in (awake, lost):
        await control.sandboxes.hibernate(admin, row.id)
    # Each move was cut off after the host and before the row:
    agent._set(sleepy.id, State.HIBERNATED)
    agent._set(awake.id, State.RUNNING)
    del agent.sandboxes[lost.id]
    after = Control(store, agent, settings, AccessTokens(b"s" * 32), now=clock)
    await after.prepare(tmp_path / "admin.key")
    states = {row.id: row.state for row in await after.sandboxes.listed(admin)}
    assert states == {sleepy.id: "hibernated", awake.id: "running", lost.id: "failed"}
    await after.close()
