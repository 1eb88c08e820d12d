"""Forks: each child whole or gone, trees with one winner, lineage that outlives sandboxes. Needs nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from pandastackd.control import Control, CreateRequest, ForkRequest, Key, Node, Principal, SandboxRow
from pandastackd.errors import (
    Conflict,
    GuestUnreachable,
    InsufficientStorage,
    InvalidRequest,
    NotFound,
    VmmFailed,
)
from tests.unit.fakes import FakeAgent, TurnableClock, eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
async def parent(control: Control, admin: Principal) -> SandboxRow:
    wanted = CreateRequest(
        "base",
        metadata={"a": "1", "owner": "me"},
        ttl_seconds=77,
        persistent=True,
        on_timeout="hibernate",
    )
    return await control.sandboxes.create(admin, wanted)


async def test_children_inherit(
    control: Control, admin: Principal, parent: SandboxRow, agent: FakeAgent
) -> None:
    wanted = ForkRequest(count=2, metadata={"b": "2", "owner": "me"})
    fork = await control.forks.fork(admin, parent.id, wanted)
    assert (fork.parent_pause_ms, fork.capture_ms, fork.failures) == (12.35, 34.5, [])
    for child in fork.children:
        assert child.labels == {"a": "1", "b": "2", "owner": "me"}
        assert (child.state, child.parent_id, child.root_id) == ("running", parent.id, parent.id)
        assert (child.ttl_seconds, child.on_timeout, child.persistent) == (77, "hibernate", False)
        assert child.workspace == parent.workspace
    tokens = {spec.access_token for spec in agent.created}
    assert len(tokens) == 3, "each has a token of its own"
    events = await control.sandboxes.events(admin, parent.id, limit=9)
    assert events[-1].type == "fork.completed"
    assert events[-1].payload["children"] == [child.id for child in fork.children]


@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize("name", ["fork_tree_id", "owner"])
async def test_a_label_of_the_platform_is_refused_by_name(
    control: Control, admin: Principal, parent: SandboxRow, agent: FakeAgent, tree: bool, name: str
) -> None:
    with pytest.raises(InvalidRequest, match=name):
        await control.forks.fork(admin, parent.id, ForkRequest(tree=tree, metadata={name: "evil"}))
    assert len(agent.created) == 1


async def test_labels_that_a_branch_was_shown_may_be_sent_back(
    control: Control, admin: Principal, parent: SandboxRow
) -> None:
    branch = (await control.forks.fork(admin, parent.id, ForkRequest(tree=True))).children[0]
    twig = (await control.forks.fork(admin, branch.id, ForkRequest(metadata=dict(branch.labels)))).children[0]
    assert twig.labels == parent.labels, "a child of a branch is no branch"


async def test_partial_failure_is_told_child_by_child(
    control: Control, admin: Principal, parent: SandboxRow, agent: FakeAgent
) -> None:
    agent.fail_children = {1: VmmFailed("the VMM ended")}
    fork = await control.forks.fork(admin, parent.id, ForkRequest(count=3))
    assert len(fork.children) == 2
    assert fork.failures == [{"index": 1, "error": "the VMM ended", "code": "vmm_failed"}]
    assert len(await control.sandboxes.listed(admin)) == 3
    tree = await control.lineage.tree(admin, parent.id)
    assert {node.id for node in tree.children} == {child.id for child in fork.children}


async def test_when_no_child_is_made_nothing_is_left(
    control: Control, admin: Principal, parent: SandboxRow, agent: FakeAgent
) -> None:
    agent.fail_children = dict.fromkeys(range(3), GuestUnreachable("silence"))
    with pytest.raises(GuestUnreachable):
        await control.forks.fork(admin, parent.id, ForkRequest(count=3, key=Key("k", "d")))
    agent.fail_children = {}
    agent.fail_snapshot = InsufficientStorage("the disk is full")
    with pytest.raises(InsufficientStorage):
        await control.forks.fork(admin, parent.id, ForkRequest(count=3, key=Key("k", "d")))
    assert [row.id for row in await control.sandboxes.listed(admin)] == [parent.id]
    assert (await control.lineage.tree(admin, parent.id)).children == []
    agent.fail_snapshot = None
    fork = await control.forks.fork(admin, parent.id, ForkRequest(count=3, key=Key("k", "d")))
    assert len(fork.children) == 3, "a key whose call failed is free"


async def test_a_caller_that_leaves_mid_fork_leaves_no_orphan(
    control: Control, admin: Principal, parent: SandboxRow, agent: FakeAgent
) -> None:
    agent.gate = asyncio.Event()
    call = asyncio.create_task(control.forks.fork(admin, parent.id, ForkRequest(count=2)))
    await eventually(lambda: len(agent.created) == 3, "the fork has begun")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    agent.gate.set()
    await control.settle()
    assert set(agent.sandboxes) == {parent.id}
    assert [row.id for row in await control.sandboxes.listed(admin)] == [parent.id]


async def test_one_key_is_one_fork(
    control: Control, admin: Principal, parent: SandboxRow, agent: FakeAgent
) -> None:
    wanted = ForkRequest(count=2, key=Key("k", "d"))
    forks = await asyncio.gather(*(control.forks.fork(admin, parent.id, wanted) for _ in range(3)))
    assert len({tuple(child.id for child in fork.children) for fork in forks}) == 1
    assert len(agent.sandboxes) == 3
    await control.sandboxes.delete(admin, forks[0].children[0].id)
    again = await control.forks.fork(admin, parent.id, wanted)
    assert [child.id for child in again.children] == [forks[0].children[1].id]
    await control.sandboxes.delete(admin, again.children[0].id)
    with pytest.raises(Conflict, match="are deleted"):
        await control.forks.fork(admin, parent.id, wanted)


async def test_two_forks_at_once_and_forks_of_forks(
    control: Control, admin: Principal, parent: SandboxRow, clock: TurnableClock
) -> None:
    both = await asyncio.gather(
        *(control.forks.fork(admin, parent.id, ForkRequest(count=5)) for _ in range(2))
    )
    assert len({child.id for fork in both for child in fork.children}) == 10
    line = [parent.id]
    for _ in range(20):
        clock.turn(1)
        line.append((await control.forks.fork(admin, line[-1], ForkRequest())).children[0].id)
    for gone in line[:-1]:
        await control.sandboxes.delete(admin, gone)
    node: Node | None = await control.lineage.tree(admin, line[-1])
    seen = []
    while node is not None:
        seen.append((node.id, node.status))
        node = next((child for child in node.children if child.id in line), None)
    assert seen == [*((gone, "deleted") for gone in line[:-1]), (line[-1], "running")]
    clock.turn(31 * 24 * 3600)
    await control.upkeep.forget()
    tree = await control.lineage.tree(admin, line[-1])
    assert (tree.id, tree.status, tree.created_at) == (parent.id, "deleted", None)
    assert line[-1] in {child.id for child in tree.children}


async def test_a_tree_has_one_winner(
    control: Control, admin: Principal, parent: SandboxRow, agent: FakeAgent, stranger: str
) -> None:
    fork = await control.forks.fork(admin, parent.id, ForkRequest(count=3, tree=True))
    first, second, third = (child.id for child in fork.children)
    assert {child.labels["fork_tree_id"] for child in fork.children} == {fork.tree_id}
    for wrong in (parent.id, first):
        with pytest.raises(Conflict, match="not a branch"):
            await control.forks.promote(admin, wrong, tree_id="tree-x", cleanup_siblings=True)
    other = await control.keys.authenticate(stranger)
    with pytest.raises(NotFound):
        await control.forks.promote(other, first, tree_id=None, cleanup_siblings=True)
    results = await asyncio.gather(
        *(
            control.forks.promote(admin, each, tree_id=None, cleanup_siblings=True)
            for each in (first, second)
        ),
        return_exceptions=True,
    )
    refused = [result for result in results if isinstance(result, BaseException)]
    assert len(refused) == 1, "two winners would each have deleted the other"
    winner = first if results[1] in refused else second
    assert set(agent.sandboxes) == {parent.id, winner}
    again = await control.forks.promote(admin, winner, tree_id=fork.tree_id, cleanup_siblings=True)
    assert (again.winner, again.deleted, again.failures) == (winner, [], {})
    assert third not in agent.sandboxes


async def test_siblings_that_cannot_be_deleted_are_named(
    control: Control,
    admin: Principal,
    parent: SandboxRow,
    agent: FakeAgent,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fork = await control.forks.fork(admin, parent.id, ForkRequest(count=3, tree=True))
    winner, stuck, easy = (child.id for child in fork.children)
    delete = agent.delete

    async def some(sandbox_id: str) -> None:
        if sandbox_id == stuck:
            raise VmmFailed("it will not end")
        await delete(sandbox_id)

    monkeypatch.setattr(agent, "delete", some)
    done = await control.forks.promote(admin, winner, tree_id=None, cleanup_siblings=True)
    assert (done.deleted, done.failures) == ([easy], {stuck: "it will not end"})


async def test_a_host_without_room_refuses_before_anything_is_made(
    control: Control, admin: Principal, parent: SandboxRow, agent: FakeAgent
) -> None:
    agent.host = replace(agent.host, memory_free_mib=500, vmm_cost_mib=96, overcommit=1.0)
    with pytest.raises(InsufficientStorage, match="needs 608 MiB, 500 MiB free"):
        await control.forks.fork(admin, parent.id, ForkRequest())
    assert len(agent.created) == 1
