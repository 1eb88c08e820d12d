"""Results on stdout: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

import typer

from pandastack._models import Record, SandboxFields
from pandastack.cli._session import Session

if TYPE_CHECKING:
    from rich.table import Table

_SANDBOX_COLUMNS = ("id", "template", "status", "cpu", "memory_mb", "created_at", "metadata")


def plain(value: Any) -> Any:
    """``value`` as JSON knows it."""
    if isinstance(value, Record):
        return dict(value)
    if isinstance(value, SandboxFields):
        return {name: getattr(value, name) for name in SandboxFields.__dataclass_fields__}
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def print_json(value: Any) -> None:
    """``value`` as JSON on stdout."""
    typer.echo(json.dumps(plain(value), indent=2))


def print_rows(session: Session, rows: Sequence[Any], columns: Sequence[str]) -> None:
    """A list: one row each."""
    if session.as_json:
        print_json(list(rows))
        return
    table = _table(*columns)
    for row in rows:
        table.add_row(*(_cell(getattr(row, column)) for column in columns))
    _print(table)


def print_facts(session: Session, value: Any) -> None:
    """One thing: a line for each fact that is known."""
    facts = plain(value)
    if session.as_json:
        print_json(facts)
        return
    table = _table("", "")
    table.show_header = False
    for name, fact in facts.items():
        if fact not in (None, "", {}, []):
            table.add_row(name, _cell(fact))
    _print(table)


def print_sandboxes(session: Session, sandboxes: Sequence[SandboxFields]) -> None:
    """Sandboxes as a list."""
    print_rows(session, sandboxes, _SANDBOX_COLUMNS)


def print_done(session: Session, message: str, **facts: Any) -> None:
    """That something was done: a line for people, facts for programs."""
    if session.as_json:
        print_json(facts)
    else:
        typer.echo(message)


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for column in columns:
        table.add_column(column.upper(), overflow="fold")
    return table


def _print(table: Table) -> None:
    from rich.console import Console

    # Into a pipe nothing may be folded: each row stays a line.
    Console(width=None if sys.stdout.isatty() else 10_000, markup=False, highlight=False).print(table)


def _cell(value: Any) -> Any:
    from rich.text import Text

    if isinstance(value, Mapping):
        value = ",".join(f"{key}={item}" for key, item in value.items())
    elif isinstance(value, list | tuple):
        value = ",".join(str(item) for item in value)
    # What a guest or another user chose must not steer the reader's terminal.
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))
    return Text("-" if value is None else text)
