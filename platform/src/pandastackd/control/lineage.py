"""Lineage: the tree of forks that a sandbox belongs to, from its first ancestor down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pandastackd.control.keys import Principal
from pandastackd.control.moves import missing
from pandastackd.lifecycle import State
from pandastackd.store import LineageRow, SandboxRow, Store


@dataclass(slots=True)
class Node:
    """A sandbox and its forks; ``created_at`` is ``None`` for an ancestor that is forgotten."""

    id: str
    status: str
    template: str
    created_at: datetime | None
    metadata: dict[str, str]
    children: list[Node] = field(default_factory=list)


class Lineage:
    """Whose child is whose."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def tree(self, principal: Principal, sandbox_id: str) -> Node:
        """The whole tree that a sandbox stands in; what is gone is in it as ``deleted`` for 30 days.

        Three queries, however large or deep it is.

        Raises:
            NotFound: the caller has, and had lately, no such sandbox.
        """
        place = await self._store.lineage.owned(principal.workspace, sandbox_id)
        if place is None:
            raise missing(sandbox_id)
        known = await self._store.lineage.tree(principal.workspace, place.root_id)
        alive = await self._store.sandboxes.of_root(principal.workspace, place.root_id)
        return grown(place.root_id, known, {row.id: row for row in alive})


def grown(root_id: str, known: Sequence[LineageRow], alive: dict[str, SandboxRow]) -> Node:
    """The tree of ``known`` below ``root_id``. Whoever's parent is forgotten stands below the root."""
    nodes = {row.sandbox_id: _node(row, alive.get(row.sandbox_id)) for row in known}
    root = nodes.get(root_id) or Node(root_id, State.DELETED, "", None, {})
    for row in known:
        if row.sandbox_id != root_id:
            parent = nodes.get(row.parent_id or "", root)
            parent.children.append(nodes[row.sandbox_id])
    return root


def _node(row: LineageRow, sandbox: SandboxRow | None) -> Node:
    status = State.DELETED.value if sandbox is None else sandbox.state
    metadata = {} if sandbox is None else sandbox.labels
    return Node(row.sandbox_id, status, row.template, row.created_at, metadata)
