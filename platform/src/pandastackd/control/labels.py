"""Metadata: callers' own labels on a sandbox, how much of them is kept, and what a child of a fork gets."""

from __future__ import annotations

from collections.abc import Mapping

from pandastackd.errors import InvalidRequest

TREE = "fork_tree_id"
"""The label that says which fork tree a branch belongs to; clients read it. What it says gives no rights."""

RESERVED = (TREE, "owner")
"""Labels that the caller of a fork cannot set on the children: theirs are the platform's or the parent's."""

MAX_ENTRIES = 64
MAX_CHARACTERS = 16 * 1024


def of_child(parent: Mapping[str, str], wanted: Mapping[str, str], tree_id: str | None) -> dict[str, str]:
    """The parent's labels, with those that the caller wants over them, and the tree's if there is one.

    The parent's own reserved labels may be among the wanted ones: clients that pass on all that they were
    shown send them along.

    Raises:
        InvalidRequest: a reserved label is among the wanted ones; together they are more than is kept.
    """
    for name in RESERVED:
        if name in wanted and wanted[name] != parent.get(name):
            raise _reserved(name)
    inherited = {name: value for name, value in parent.items() if name != TREE}
    labels = inherited | {name: value for name, value in wanted.items() if name not in RESERVED}
    if tree_id is not None:
        labels[TREE] = tree_id
    check_size(labels, "metadata is too large together with the parent's")
    return labels


def check_fresh(labels: Mapping[str, str]) -> None:
    """Refuse labels that a sandbox made from no other cannot have.

    Raises:
        InvalidRequest: there are more than are kept, or one that only forks have.
    """
    check_size(labels, "metadata is too large")
    if TREE in labels:
        raise _reserved(TREE)


def _reserved(name: str) -> InvalidRequest:
    return InvalidRequest(
        f"metadata may not set {name!r}: the platform does; leave it out", code="reserved_metadata"
    )


def check_size(labels: Mapping[str, str], complaint: str) -> None:
    """Refuse more labels than are kept.

    Raises:
        InvalidRequest: ``complaint``, with what is allowed.
    """
    size = sum(len(name) + len(value) for name, value in labels.items())
    if len(labels) > MAX_ENTRIES or size > MAX_CHARACTERS:
        raise InvalidRequest(
            f"{complaint}: at most {MAX_ENTRIES} entries and {MAX_CHARACTERS} characters in all"
        )
