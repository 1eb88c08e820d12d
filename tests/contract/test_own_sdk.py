"""Our own SDK against our own API: snapshots, forks, sleep. Needs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pandastack import PandaStack, errors
from tests.contract.fake_platform import fake_platform


@pytest.fixture
def client(tmp_path: Path) -> Iterator[PandaStack]:
    with fake_platform(tmp_path) as (url, key), PandaStack(token=key, base_url=url) as client:
        yield client


def test_forks_trees_and_lineage(client: PandaStack) -> None:
    sandbox = client.sandboxes.create(template="base", metadata={"a": "1"})
    one = sandbox.fork()
    assert one.exec("echo forked").stdout == "forked\n"
    assert len(sandbox.fork(count=3)) == 3
    grandchild = one.fork({"b": "2"})
    assert grandchild.metadata == {"a": "1", "b": "2"}
    one.kill()
    tree = grandchild.tree()
    assert tree.id == sandbox.id
    status = {node.id: node.status for node in tree.walk()}
    assert len(status) == 6
    assert (status[one.id], status[grandchild.id]) == ("deleted", "running")
    branches = sandbox.fork_tree(3)
    done = branches[0].promote(cleanup_siblings=True)
    assert sorted(done.deleted) == sorted(branch.id for branch in branches[1:])
    with pytest.raises(errors.BadRequestError, match="count"):
        sandbox.fork(count=101)


def test_explore(client: PandaStack) -> None:
    sandbox = client.sandboxes.create(template="base")
    found = sandbox.explore(
        ["echo one", "echo three"], score_fn=lambda _, outcome: float(len(outcome.stdout_tail))
    )
    assert found.winner is not None
    assert found.winner.exec("echo won").stdout == "won\n"
    assert {each.id for each in client.sandboxes.list()} == {sandbox.id, found.winner.id}


def test_snapshots_rollback_and_sleep(client: PandaStack) -> None:
    sandbox = client.sandboxes.create(template="base", on_timeout="hibernate")
    snapshot_id = sandbox.snapshot("before")
    assert client.snapshots.get(snapshot_id).sandbox_id == sandbox.id
    assert client.snapshots.get(snapshot_id).name == "before"
    assert sandbox.rollback(snapshot_id).status == "running"
    sandbox.hibernate()
    assert client.sandboxes.get(sandbox.id).status == "hibernated"
    assert sandbox.exec("echo woken").stdout == "woken\n"
    sandbox.hibernate()
    sandbox.wake()
    sandbox.kill()
    again = client.sandboxes.create(from_snapshot=snapshot_id)
    client.snapshots.delete(snapshot_id)
    assert again.exec(r"printf 'a\377b'").exit_code == 0
    assert client.snapshots.list() == []
