# Generated from _async/_explore.py by scripts/generate_sync.py; do not edit.
"""Best of N: run each candidate in a fork of its own, score what came of it, keep the winner.

    sandbox ──fork_tree(N)──> N branches ──run, score──> pick ──promote──> winner; the others are deleted

A branch that fails is an outcome, not an error: ``explore`` raises only when nothing can be picked.
"""

from __future__ import annotations

import builtins
import re
import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from pandastack import errors
from pandastack._sync._runtime import call, parallel
from pandastack._sync._sandbox import Sandbox

MAX_BRANCHES = 100
DEFAULT_CONCURRENCY = 4
_KEPT_CHARACTERS = 4096
_KEPT_FILES = 200
_WATCHED = "/home /root /app /work /workspace"
_PROBE_SECONDS = 15


@dataclass(frozen=True)
class Candidate:
    """One thing to try: a shell command, or a function that is given the branch's sandbox.

    Attributes:
        label: how outcomes call it.
        cmd: a shell command.
        fn: a function of the sandbox; its result becomes the outcome's ``value``.
        timeout_s: seconds the command may take.
        env: environment of the command.
        score: a score known beforehand; skips ``score_fn``.
    """

    label: str
    cmd: str | None = None
    fn: Callable[[Sandbox], Any] | None = None
    timeout_s: float = 60.0
    env: dict[str, str] | None = None
    score: float | None = None

    def __post_init__(self) -> None:
        if (self.cmd is None) == (self.fn is None):
            raise errors.ExploreError(f"candidate {self.label!r} needs either a cmd or a fn")
        for name in self.env or ():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise errors.ExploreError(f"candidate {self.label!r}: {name!r} is not a variable's name")

    @staticmethod
    def shell(label: str, cmd: str, **options: Any) -> Candidate:
        """A candidate that is a shell command."""
        return Candidate(label=label, cmd=cmd, **options)

    @staticmethod
    def call(label: str, fn: Callable[[Sandbox], Any], **options: Any) -> Candidate:
        """A candidate that is a function."""
        return Candidate(label=label, fn=fn, **options)

    def command(self) -> str:
        """The shell text to run, its environment exported first."""
        exports = "".join(f"export {name}={shlex.quote(value)}; " for name, value in (self.env or {}).items())
        return exports + (self.cmd or "")


@dataclass
class BranchOutcome:
    """What came of one candidate. ``duration_ms`` is its own run, without fork and scoring."""

    label: str
    sandbox_id: str
    ok: bool
    score: float
    exit_code: int | None
    stdout_tail: str
    stderr_tail: str
    files_changed: builtins.list[str]
    duration_ms: int
    value: Any = None
    error: str | None = None
    timed_out: bool = False
    sandbox: Sandbox | None = field(default=None, repr=False, compare=False)


@dataclass
class ExploreResult:
    """A finished experiment.

    Attributes:
        winner: the promoted branch; ``None`` when it was not to be promoted.
        winner_outcome: what won.
        outcomes: every branch, best first.
        tree_id: the server's name of the fork tree.
        reaped: ids of the branches that were deleted.
        reap_failures: those that could not be, and why.
        errors: what went wrong beside the branches themselves.
    """

    winner: Sandbox | None
    winner_outcome: BranchOutcome
    outcomes: builtins.list[BranchOutcome]
    tree_id: str
    reaped: builtins.list[str] = field(default_factory=list)
    reap_failures: dict[str, str] = field(default_factory=dict)
    errors: builtins.list[str] = field(default_factory=list)

    def best(self, n: int = 1) -> builtins.list[BranchOutcome]:
        """The ``n`` best outcomes."""
        return self.outcomes[:n]

    def table(self) -> str:
        """The outcomes as text, the winner marked."""
        lines = [f"  {'label':<24} {'score':>8}  {'ok':<3} {'exit':>4} {'ms':>7} {'files':>5}"]
        for outcome in self.outcomes:
            mark = "*" if outcome is self.winner_outcome else " "
            exit_code = "-" if outcome.exit_code is None else str(outcome.exit_code)
            lines.append(
                f"{mark} {outcome.label[:24]:<24} {outcome.score:>8.3f}  {'yes' if outcome.ok else 'no':<3} "
                f"{exit_code:>4} {outcome.duration_ms:>7} {len(outcome.files_changed):>5}"
            )
        return "\n".join(lines)


ScoreFn = Callable[[Sandbox, BranchOutcome], Any]
Picker = Callable[[builtins.list[BranchOutcome]], Any]


def explore(
    sandbox: Sandbox,
    candidates: Sequence[Candidate | str],
    *,
    score_fn: ScoreFn | None = None,
    select: Literal["max", "min"] | Picker = "max",
    require_success: bool = True,
    max_concurrency: int | None = None,
    cleanup_losers: bool = True,
    promote_winner: bool = True,
    capture_files: bool | str = True,
    ttl_seconds: int = 600,
    on_outcome: Callable[[BranchOutcome], Any] | None = None,
) -> ExploreResult:
    """Run every candidate in its own fork of ``sandbox`` and keep the best.

    Args:
        sandbox: what the branches go on from; it runs on untouched.
        candidates: one branch each; a bare string is a shell command.
        score_fn: told the branch and its outcome, gives its score. Default: 1 for success, else 0.
        select: the highest score, the lowest, or a function that picks from the viable outcomes.
        require_success: a branch that failed cannot win.
        max_concurrency: how many branches run at once; default 4. All are forked at once, from one instant.
        cleanup_losers: delete the other branches.
        promote_winner: make the winner a sandbox of its own.
        capture_files: tell which files each branch changed; a string names the directories to watch.
        ttl_seconds: branches live at most this long after their last use, should this process die.
            The winner gets what ``sandbox`` has.
        on_outcome: told each outcome as it is known.

    Raises:
        ExploreError: no candidates, too many, no branch could be forked, or none was viable.
            No branch is left then.
    """
    wanted = [_coerced(candidate) for candidate in candidates]
    if not 0 < len(wanted) <= MAX_BRANCHES:
        raise errors.ExploreError(f"explore takes 1 to {MAX_BRANCHES} candidates, not {len(wanted)}")
    run = _Experiment(sandbox, wanted, score_fn, capture_files, ttl_seconds, on_outcome)
    try:
        run.fork()
        outcomes = run.branches(max_concurrency or DEFAULT_CONCURRENCY)
        winner = _pick(outcomes, select, require_success)
    except BaseException:
        run.reap(keep=None)
        raise
    if promote_winner:
        run.promote(winner, cleanup_losers)
    if cleanup_losers:
        run.reap(keep=winner.sandbox_id)
    outcomes.sort(key=lambda outcome: _rank(outcome, lowest=select == "min"))
    return ExploreResult(
        winner=winner.sandbox if promote_winner else None,
        winner_outcome=winner,
        outcomes=outcomes,
        tree_id=run.tree_id,
        reaped=run.reaped,
        reap_failures=run.reap_failures,
        errors=run.errors,
    )


class _Experiment:
    """The branches of one ``explore``: made, run, and deleted again."""

    def __init__(
        self,
        parent: Sandbox,
        candidates: builtins.list[Candidate],
        score_fn: ScoreFn | None,
        capture_files: bool | str,
        ttl_seconds: int,
        on_outcome: Callable[[BranchOutcome], Any] | None,
    ) -> None:
        self._parent, self._candidates = parent, candidates
        self._score_fn, self._on_outcome = score_fn, on_outcome
        self._watched = capture_files if isinstance(capture_files, str) else _WATCHED if capture_files else ""
        self._ttl_seconds = ttl_seconds
        self._children: list[Sandbox] = []
        self.tree_id = ""
        self.reaped: list[str] = []
        self.reap_failures: dict[str, str] = {}
        self.errors: list[str] = []

    def fork(self) -> None:
        """Make one branch for each candidate; those that could not be made are reported, not fatal."""
        metadata = {"explore": "1", "explore_ttl": str(self._ttl_seconds)}
        try:
            self._children = self._parent.fork_tree(len(self._candidates), metadata)
        except errors.ForkIncomplete as error:
            self._children = error.children
            self.errors.append(str(error))
            if not self._children:
                raise errors.ExploreError(f"no branch could be forked: {error}") from error
        found = (
            child.metadata.get("fork_tree_id") or child.metadata.get("tree_id") for child in self._children
        )
        self.tree_id = next((tree_id for tree_id in found if tree_id), "")
        parallel(self._limit_life, self._children, len(self._children))

    def branches(self, limit: int) -> list[BranchOutcome]:
        """Run and score every branch, ``limit`` at once."""
        pairs = list(zip(self._children, self._candidates, strict=False))
        return parallel(self._branch, pairs, limit)

    def promote(self, winner: BranchOutcome, cleanup_losers: bool) -> None:
        """Make the winner independent, with its parent's time to live."""
        branch = winner.sandbox
        if branch is None:
            return
        try:
            done = branch.promote(cleanup_siblings=cleanup_losers, tree_id=self.tree_id or None)
            self.reaped += done.deleted
            self.reap_failures.update(done.failures)
            life = self._parent.lifecycle()
            if life.persistent:
                branch.set_persistent(True)
            elif life.ttl_seconds is not None:
                branch.set_ttl(life.ttl_seconds)
        except errors.PandastackError as error:
            self.errors.append(f"promote: {error}")

    def reap(self, keep: str | None) -> None:
        """Delete every branch but ``keep`` that is still there."""
        gone = {keep, *self.reaped}
        losers = [child for child in self._children if child.id not in gone]
        if losers:
            parallel(self._kill, losers, DEFAULT_CONCURRENCY)

    def _kill(self, child: Sandbox) -> None:
        try:
            with suppress(errors.NotFoundError):
                child.kill()
        except errors.PandastackError as error:
            self.reap_failures[child.id] = str(error)
        else:
            self.reap_failures.pop(child.id, None)
            self.reaped.append(child.id)

    def _limit_life(self, child: Sandbox) -> None:
        try:
            child.set_ttl(self._ttl_seconds)
        except errors.PandastackError as error:
            self.errors.append(f"{child.id}: its time to live could not be set: {error}")

    def _branch(self, pair: tuple[Sandbox, Candidate]) -> BranchOutcome:
        child, candidate = pair
        since = self._guest_time(child)
        started = time.monotonic()
        outcome = _run(child, candidate)
        outcome.duration_ms = round((time.monotonic() - started) * 1000)
        if since and outcome.ok:
            outcome.files_changed = self._files_since(child, since)
        self._score(child, candidate, outcome)
        if self._on_outcome is not None:
            try:
                call(self._on_outcome, outcome)
            except Exception as error:  # noqa: BLE001 - an onlooker's mistake must not cost the experiment
                self.errors.append(f"on_outcome({candidate.label}): {error!r}")
        return outcome

    def _score(self, child: Sandbox, candidate: Candidate, outcome: BranchOutcome) -> None:
        if candidate.score is not None:
            outcome.score = float(candidate.score)
        elif self._score_fn is None:
            outcome.score = 1.0 if outcome.ok else 0.0
        else:
            try:
                outcome.score = float(call(self._score_fn, child, outcome))
            except Exception as error:  # noqa: BLE001 - one branch that cannot be scored must not cost the others
                outcome.ok = False
                outcome.error = outcome.error or f"score_fn: {error!r}"

    def _guest_time(self, child: Sandbox) -> str:
        if not self._watched:
            return ""
        try:
            return (child.exec("date +%s.%N", timeout_seconds=_PROBE_SECONDS)).stdout.strip()
        except errors.PandastackError as error:
            self.errors.append(f"{child.id}: changed files are not known: {error}")
            return ""

    def _files_since(self, child: Sandbox, since: str) -> list[str]:
        find = (
            f"find {self._watched} -xdev -type f -newermt {shlex.quote('@' + since)} -print0 2>/dev/null"
            f" | head -z -n {_KEPT_FILES}"
        )
        try:
            found = (child.exec(find, timeout_seconds=_PROBE_SECONDS)).stdout
        except errors.PandastackError as error:
            self.errors.append(f"{child.id}: changed files are not known: {error}")
            return []
        return [name for name in found.split("\0") if name]


def _run(child: Sandbox, candidate: Candidate) -> BranchOutcome:
    outcome = BranchOutcome(candidate.label, child.id, False, 0.0, None, "", "", [], 0, sandbox=child)
    try:
        if candidate.fn is not None:
            outcome.value = call(candidate.fn, child)
            outcome.ok = True
        else:
            result = child.exec(candidate.command(), timeout_seconds=candidate.timeout_s)
            outcome.exit_code = result.exit_code
            outcome.stdout_tail = result.stdout[-_KEPT_CHARACTERS:]
            outcome.stderr_tail = result.stderr[-_KEPT_CHARACTERS:]
            outcome.ok = result.exit_code == 0
    except errors.SandboxTimeout as error:
        outcome.error, outcome.timed_out = str(error), True
    except Exception as error:  # noqa: BLE001 - whatever a candidate raises is that branch's outcome
        outcome.error = str(error) or repr(error)
    return outcome


def _coerced(candidate: Candidate | str) -> Candidate:
    return Candidate.shell(candidate, candidate) if isinstance(candidate, str) else candidate


def _pick(
    outcomes: list[BranchOutcome], select: Literal["max", "min"] | Picker, require_success: bool
) -> BranchOutcome:
    viable = [outcome for outcome in outcomes if outcome.ok or not require_success]
    if not viable:
        raise errors.ExploreError(_nothing_viable(outcomes))
    if not callable(select):
        return min(viable, key=lambda outcome: _rank(outcome, lowest=select == "min"))
    picked: object = call(select, list(viable))
    for outcome in viable:
        if outcome is picked:
            return outcome
    raise errors.ExploreError("select must return one of the outcomes it was given")


def _rank(outcome: BranchOutcome, *, lowest: bool) -> tuple[float, int, str]:
    # Best first; equals by the faster one, then by label so that two runs agree.
    return (outcome.score if lowest else -outcome.score, outcome.duration_ms, outcome.label)


def _nothing_viable(outcomes: list[BranchOutcome]) -> str:
    found = "; ".join(f"{o.label}: {o.error or f'exit {o.exit_code}'}" for o in outcomes)
    return f"none of {len(outcomes)} branches was viable ({found})"
