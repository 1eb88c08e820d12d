"""Forks: one capture of a sandbox, many children that go on from it; and fork trees, of which one branch is promoted.

Children are rows before they are machines. Each either runs in the end or leaves nothing, and the answer says which
became of each. A child has its parent's workspace, template, time to live and labels; it does not inherit being
persistent, since nobody would ever end it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog

from pandastackd.config import Settings
from pandastackd.control import labels, rows
from pandastackd.control.admission import admit
from pandastackd.control.background import Background
from pandastackd.control.clock import Clock
from pandastackd.control.creation import LEASE, Creator, new_id
from pandastackd.control.host import HostAgent
from pandastackd.control.keys import AccessTokens, Principal
from pandastackd.control.lifetime import TtlFrom, checked_ttl
from pandastackd.control.moves import Moves
from pandastackd.control.network import Network
from pandastackd.control.once import Answer, Key, Once
from pandastackd.control.sandboxes import Sandboxes
from pandastackd.control.usage import Usage
from pandastackd.domain import SandboxReport, SandboxSpec
from pandastackd.errors import Conflict, InvalidRequest, NotFound, PlatformError
from pandastackd.store import ForkTreeRow, SandboxRow, Store

log = structlog.get_logger(__name__)

MAX_CHILDREN = 100
LEASE_PER_CHILD = timedelta(seconds=10)
DELETES_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class ForkRequest:
    """What a caller asks for.

    Attributes:
        metadata: labels over the parent's; see ``labels``.
        ttl_seconds: how long the children live from now, whatever their use; ``None`` is as the parent.
        tree: the children are the branches of a new fork tree.
    """

    count: int = 1
    metadata: dict[str, str] = field(default_factory=dict)
    tree: bool = False
    ttl_seconds: int | None = None
    key: Key | None = None


@dataclass(frozen=True, slots=True)
class Fork:
    """What came of a fork; at least one child.

    Attributes:
        children: as they are now; one that was deleted since an earlier answer to the same call is left out.
        failures: ``{index, error, code}`` of each child that could not be made.
    """

    parent_id: str
    snapshot_id: str
    tree_id: str | None
    at: datetime
    children: Sequence[SandboxRow]
    failures: Sequence[dict[str, Any]]
    parent_pause_ms: float
    capture_ms: float


@dataclass(frozen=True, slots=True)
class Promotion:
    """What came of a promotion: the siblings that were deleted, and why others could not be."""

    winner: str
    tree_id: str
    deleted: list[str]
    failures: dict[str, str]


class Forks:
    """Forks sandboxes of one host."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        sandboxes: Sandboxes,
        creator: Creator,
        moves: Moves,
        usage: Usage,
        tokens: AccessTokens,
        once: Once,
        settings: Settings,
        background: Background,
        now: Clock,
    ) -> None:
        self._store = store
        self._host = host
        self._sandboxes = sandboxes
        self._creator = creator
        self._moves = moves
        self._usage = usage
        self._tokens = tokens
        self._once = once
        self._settings = settings
        self._background = background
        self._now = now

    async def fork(self, principal: Principal, parent_id: str, request: ForkRequest) -> Fork:
        """Fork a running or paused sandbox; a hibernated one is woken first. The parent goes on.

        Raises:
            InvalidRequest: too many children, more labels than are kept, or a time to live that is out of range.
            NotFound: the parent is not there, or not the caller's.
            Conflict: it is neither running nor paused; the idempotency key was used for something else, or all that
                it made is deleted.
            NoCapacity, InsufficientStorage: no room for any child; nothing was made.
            VmmFailed, GuestUnreachable, HostFailure: no child could be made; nothing is left.
        """
        if not 1 <= request.count <= MAX_CHILDREN:
            raise InvalidRequest(f"count must be 1 to {MAX_CHILDREN}, not {request.count}")
        if request.ttl_seconds is not None:
            checked_ttl(request.ttl_seconds, self._settings)
        parent = await self._sandboxes.get(principal, parent_id)
        job = self._once.run(principal.workspace, request.key, lambda: self._make(parent, request))
        making = self._background.spawn(job, name=f"fork-{parent.id}")
        try:
            answer = await asyncio.shield(making)
        except asyncio.CancelledError:
            # Without a key, nobody can ever ask for these children again.
            if request.key is None:
                self._background.spawn(self._abandon(principal, making), name=f"abandon-{parent.id}")
            raise
        found = {row.id: row for row in await self._store.sandboxes.among(parent.workspace, answer["made"])}
        children = [found[child] for child in answer["made"] if child in found]
        if not children:
            raise Conflict("all children that this call made are deleted", code="idempotency_gone")
        return Fork(
            parent_id=parent.id,
            snapshot_id=answer["snapshot_id"],
            tree_id=answer["tree_id"],
            at=datetime.fromisoformat(answer["at"]),
            children=children,
            failures=answer["failures"],
            parent_pause_ms=answer["parent_pause_ms"],
            capture_ms=answer["capture_ms"],
        )

    async def delete(self, principal: Principal, fork: Fork, *, reason: str) -> None:
        """End the children of a fork whose answer nobody received."""
        await self._delete_all(principal, [child.id for child in fork.children], reason)

    async def promote(
        self, principal: Principal, sandbox_id: str, *, tree_id: str | None, cleanup_siblings: bool
    ) -> Promotion:
        """Make a branch the winner of its fork tree, and delete the others if wished. A tree has one winner.

        Raises:
            NotFound: the branch is not there, or not the caller's.
            Conflict: it is a branch of no tree, or of another one, or the tree has another winner.
        """
        row = await self._sandboxes.get(principal, sandbox_id)
        if row.tree_id is None:
            raise Conflict(
                f"sandbox {row.id} is not a branch of a fork tree; make branches with fork-tree",
                code="not_in_tree",
            )
        if tree_id is not None and tree_id != row.tree_id:
            raise Conflict(f"sandbox {row.id} is not a branch of fork tree {tree_id}", code="not_in_tree")
        winner = await self._store.fork_trees.promote(row.workspace, row.tree_id, row.id)
        if winner != row.id:
            raise Conflict(
                f"fork tree {row.tree_id} has a winner already: {winner}; keep or delete this branch on its own",
                code="already_promoted",
            )
        deleted: list[str] = []
        failures: dict[str, str] = {}
        if cleanup_siblings:
            branches = await self._store.sandboxes.in_tree(row.workspace, row.tree_id)
            losers = [branch.id for branch in branches if branch.id != row.id]
            deleted, failures = await self._delete_all(principal, losers, "a sibling was promoted")
        await self._store.events.add(
            rows.event(
                row,
                "fork_tree.promoted",
                self._now(),
                tree_id=row.tree_id,
                deleted=deleted,
                failed=len(failures),
            )
        )
        return Promotion(row.id, row.tree_id, deleted, failures)

    async def _make(self, parent: SandboxRow, request: ForkRequest) -> Answer:
        parent = await self._moves.ready(parent, paused_will_do=True)
        admit(await self._host.capacity(), parent.memory_mib, self._settings)
        planned, tree = self._planned(parent, request)
        await self._store.sandboxes.add_children(planned, tree=tree)
        egress = Network.of(parent.network).egress(self._settings)
        specs = [
            SandboxSpec(row.id, row.snapshot_id, access_token=self._tokens.of(row.id), egress=egress)
            for row in planned
        ]
        try:
            with self._usage.hold(parent):
                report = await self._host.fork(parent.id, specs)
            outcomes = zip(planned, report.children, strict=True)
            born = await asyncio.gather(*(self._born(row, child) for row, child in outcomes))
        except BaseException as error:
            await asyncio.gather(*(self._creator.undo(row, error) for row in planned), return_exceptions=True)
            raise
        made = [row.id for row, error in zip(planned, born, strict=True) if error is None]
        errors = {index: error for index, error in enumerate(born) if error is not None}
        if not made:
            raise next(iter(errors.values()))
        failures = [
            {"index": index, "error": error.message, "code": error.code} for index, error in errors.items()
        ]
        now = self._now()
        captured = report.captured
        answer: Answer = {
            "snapshot_id": captured.id,
            "tree_id": None if tree is None else tree.id,
            "at": now.isoformat(),
            "made": made,
            "failures": failures,
            "parent_pause_ms": round(captured.parent_pause_ms, 2),
            "capture_ms": round(captured.capture_ms, 2),
        }
        told = {
            "children": made,
            "failed": len(failures),
            **{name: answer[name] for name in ("tree_id", "parent_pause_ms", "capture_ms")},
        }
        kind = "fork.completed" if tree is None else "fork_tree.completed"
        await self._store.events.add(rows.event(parent, kind, now, **told))
        return answer

    def _planned(
        self, parent: SandboxRow, request: ForkRequest
    ) -> tuple[list[SandboxRow], ForkTreeRow | None]:
        now = self._now()
        tree = None
        if request.tree:
            tree = ForkTreeRow(
                id=f"tree-{secrets.token_hex(10)}", workspace=parent.workspace, winner=None, created_at=now
            )
        tree_id = None if tree is None else tree.id
        metadata = labels.of_child(parent.labels, request.metadata, tree_id)
        planned = [
            rows.fresh(
                sandbox_id=new_id(),
                workspace=parent.workspace,
                host=parent.host,
                template=parent.template,
                snapshot_id=parent.snapshot_id,
                from_snapshot=None,
                vcpus=parent.vcpus,
                memory_mib=parent.memory_mib,
                metadata=metadata,
                ttl_seconds=request.ttl_seconds or parent.ttl_seconds,
                ttl_from=TtlFrom(parent.ttl_from) if request.ttl_seconds is None else TtlFrom.SET,
                persistent=False,
                on_timeout=parent.on_timeout,
                wake_on_traffic=parent.wake_on_traffic,
                network=parent.network,
                parent_id=parent.id,
                root_id=parent.root_id,
                tree_id=tree_id,
                now=now,
                lease=LEASE + request.count * LEASE_PER_CHILD,
            )
            for _ in range(request.count)
        ]
        return planned, tree

    async def _born(self, row: SandboxRow, outcome: SandboxReport | PlatformError) -> PlatformError | None:
        """Write down what became of one child; the error, if there is none."""
        try:
            if isinstance(outcome, PlatformError):
                raise outcome
            await self._creator.running(row, outcome)
        except PlatformError as error:
            await self._creator.undo(row, error)
            return error
        return None

    async def _abandon(self, principal: Principal, making: asyncio.Task[Answer]) -> None:
        with suppress(Exception):  # a failed fork has undone itself
            answer = await making
            await self._delete_all(principal, answer["made"], "the caller went away")

    async def _delete_all(
        self, principal: Principal, sandbox_ids: Sequence[str], reason: str
    ) -> tuple[list[str], dict[str, str]]:
        """Delete several; which are gone, and why others are not."""
        gate = asyncio.Semaphore(DELETES_AT_ONCE)
        deleted: list[str] = []
        failures: dict[str, str] = {}

        async def delete(sandbox_id: str) -> None:
            try:
                async with gate:
                    await self._sandboxes.delete(principal, sandbox_id, reason=reason)
            except NotFound:
                return  # somebody else deleted it
            except PlatformError as error:
                failures[sandbox_id] = error.message
            except Exception as error:
                log.exception("fork.delete_failed", sandbox=sandbox_id)
                failures[sandbox_id] = type(error).__name__
            else:
                deleted.append(sandbox_id)

        await asyncio.gather(*(delete(sandbox_id) for sandbox_id in sandbox_ids))
        return deleted, failures
