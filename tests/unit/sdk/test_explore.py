"""Best of N over forks, sync and async, against the mock platform."""

from __future__ import annotations

import httpx
import pytest

import pandastack
from pandastack import AsyncCandidate, AsyncSandbox, BranchOutcome, Candidate, Sandbox, async_explore, explore
from pandastack.testing import MockPlatform


@pytest.fixture
def platform() -> MockPlatform:
    platform = MockPlatform()
    platform.on_exec("^one$", stdout="1")
    platform.on_exec("^two$", stdout="2")
    platform.on_exec("^bad$", stderr="no", exit_code=1)
    platform.on_exec("^date", stdout="100.5\n")
    platform.on_exec("^find", stdout="/work/a\0/work/b\nc\0")
    return platform


@pytest.fixture
def parent(platform: MockPlatform) -> Sandbox:
    return platform.client().sandboxes.create(ttl_seconds=4321)


def _ids(platform: MockPlatform) -> set[str]:
    return {sandbox.id for sandbox in platform.client().sandboxes.list()}


def _value(_sandbox: Sandbox, outcome: BranchOutcome) -> float:
    return float(outcome.stdout_tail or 0)


def test_the_best_branch_wins_and_the_others_are_gone(platform: MockPlatform, parent: Sandbox) -> None:
    told: list[str] = []
    result = parent.explore(
        ["one", "two", "bad"], score_fn=_value, on_outcome=lambda outcome: told.append(outcome.label)
    )
    assert result.winner is not None
    assert (result.winner_outcome.label, result.winner_outcome.score) == ("two", 2.0)
    assert [outcome.label for outcome in result.outcomes] == ["two", "one", "bad"]
    assert result.winner_outcome.files_changed == ["/work/a", "/work/b\nc"]
    assert sorted(told) == ["bad", "one", "two"]
    assert len(result.reaped) == 2
    assert result.errors == []
    assert _ids(platform) == {parent.id, result.winner.id}
    assert result.winner.lifecycle().ttl_seconds == 4321
    assert "* two" in result.table()


def test_lowest(parent: Sandbox) -> None:
    result = parent.explore(["one", "two"], score_fn=_value, select="min")
    assert [outcome.label for outcome in result.outcomes] == ["one", "two"]
    assert result.winner_outcome.label == "one"


def test_own_choice(parent: Sandbox) -> None:
    result = parent.explore(["one", "two"], score_fn=_value, select=lambda outcomes: outcomes[0])
    assert result.winner_outcome.label == "one"


def test_equal_scores_fall_to_the_label(parent: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pandastack._sync._explore.time.monotonic", lambda: 0.0)
    assert parent.explore(["two", "one"]).winner_outcome.label == "one"


def test_nothing_viable_leaves_nothing(platform: MockPlatform, parent: Sandbox) -> None:
    with pytest.raises(pandastack.ExploreError, match="bad: exit 1"):
        parent.explore(["bad", "bad"])
    assert _ids(platform) == {parent.id}


def test_a_wrong_choice_leaves_nothing(platform: MockPlatform, parent: Sandbox) -> None:
    with pytest.raises(pandastack.ExploreError, match="one of the outcomes"):
        parent.explore(["one"], select=lambda _outcomes: None)
    assert _ids(platform) == {parent.id}


def test_failure_may_win_if_allowed(parent: Sandbox) -> None:
    result = parent.explore(["bad"], require_success=False)
    assert result.winner_outcome.exit_code == 1


def test_losers_and_winner_may_be_kept(platform: MockPlatform, parent: Sandbox) -> None:
    result = parent.explore(["one", "two"], cleanup_losers=False, promote_winner=False)
    assert result.winner is None
    assert len(_ids(platform)) == 3
    assert not any(request.path.endswith("/promote") for request in platform.requests)
    for outcome in result.outcomes:
        assert outcome.sandbox is not None
        assert outcome.sandbox.lifecycle().ttl_seconds == 600


def test_functions_env_scores_and_their_errors(platform: MockPlatform, parent: Sandbox) -> None:
    def body(sandbox: Sandbox) -> str:
        sandbox.filesystem.write("/x", "y")
        return "made"

    def broken(_sandbox: Sandbox) -> None:
        raise RuntimeError("mine")

    result = explore(
        parent,
        [
            Candidate.call("fn", body, score=5),
            Candidate.call("broken", broken),
            Candidate.shell("env", "run", env={"A": "x y"}),
        ],
        capture_files=False,
    )
    assert (result.winner_outcome.label, result.winner_outcome.value) == ("fn", "made")
    assert {outcome.label: outcome.error for outcome in result.outcomes}["broken"] == "mine"
    sent = [request.json["cmd"] for request in platform.requests if request.path.endswith("/exec")]
    assert sent == ["export A='x y'; run"]


def test_a_scorer_that_fails_spoils_only_its_branch(parent: Sandbox) -> None:
    def score(_sandbox: Sandbox, outcome: BranchOutcome) -> float:
        if outcome.label == "two":
            raise ValueError("cannot")
        return 1.0

    result = parent.explore(["one", "two"], score_fn=score)
    assert result.winner_outcome.label == "one"
    assert "cannot" in (result.outcomes[1].error or "")


def test_fewer_branches_than_candidates(platform: MockPlatform, parent: Sandbox) -> None:
    child = parent.fork_tree(1)[0]
    platform.on_request(
        "POST",
        ".*/fork-tree",
        httpx.Response(
            200,
            json={"children": [{"id": child.id, "template": "base"}], "failures": {"1": "no memory"}},
        ),
    )
    result = parent.explore(["one", "two"])
    assert [outcome.label for outcome in result.outcomes] == ["one"]
    assert "no memory" in result.errors[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Candidate("x"),
        lambda: Candidate("x", cmd="a", fn=print),
        lambda: Candidate("x", cmd="a", env={"A B": "c"}),
    ],
)
def test_bad_candidates(make: object) -> None:
    with pytest.raises(pandastack.ExploreError):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("count", [0, 101])
def test_bad_counts(platform: MockPlatform, parent: Sandbox, count: int) -> None:
    with pytest.raises(pandastack.ExploreError, match="1 to 100"):
        parent.explore(["one"] * count)
    assert _ids(platform) == {parent.id}


@pytest.mark.anyio
async def test_async(platform: MockPlatform) -> None:
    async with platform.async_client() as client:
        parent = await client.sandboxes.create()

        async def body(sandbox: AsyncSandbox) -> str:
            return (await sandbox.exec("two")).stdout

        async def score(_sandbox: AsyncSandbox, outcome: object) -> float:
            return 9.0 if outcome.value == "2" else 0.0  # type: ignore[attr-defined]

        result = await async_explore(parent, [AsyncCandidate.call("fn", body), "one"], score_fn=score)
        assert result.winner_outcome.label == "fn"
        assert result.winner is not None
    assert _ids(platform) == {parent.id, result.winner.id}
