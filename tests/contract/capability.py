"""Runs a program's checks inside a client's environment, one a capability, and prints a line for each.

    ok NAME                 it works
    not ok NAME: REASON     it does not; the traceback goes to stderr
    absent NAME             this client has no such thing: the check raised ``Absent``

A red capability does not stop the next one. Needs nothing but the standard library: it runs where only a client is.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable


class Absent(Exception):
    """The client, not the server, lacks the capability."""


def run(checks: Iterable[Callable[..., None]], *arguments: object) -> None:
    """Try every check with ``arguments``; the name of its function is the capability's."""
    for check in checks:
        try:
            check(*arguments)
        except Absent:
            line = f"absent {check.__name__}"
        except Exception as error:  # noqa: BLE001 - whatever a client raises is a red capability
            traceback.print_exc()
            line = f"not ok {check.__name__}: {_one_line(error)}"
        else:
            line = f"ok {check.__name__}"
        print(line, flush=True)


def fails(kind: type[Exception], call: Callable[[], object], *parts: str) -> Exception:
    """The error of ``kind`` that ``call`` raises; all ``parts`` must be in its text."""
    caught = None
    try:
        call()
    except kind as error:
        caught = error
    assert caught is not None, f"no {kind.__name__}"
    missing = [part for part in parts if part not in str(caught)]
    assert not missing, f"{missing} not in: {caught}"
    return caught


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
