"""docs/compatibility.md: written from what was run, and read back to see whether it still holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.contract.clients import Client, Mark, Result, capabilities, clients

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"

SIGNS: dict[Mark, str] = {"ok": "✓", "not ok": "✗", "absent": "·"}

_HEAD = """\
# Compatibility

<!-- Written by `make compatibility`, which runs every client; not by hand. -->

These published clients run unmodified against PandaStack. Each row is one version of a client, installed from its
registry, with a program of `tests/contract/` that tries every capability on a real server with real microVMs. The
tests run them all, and fail where this page says something else than what they saw.

`✓` works; `✗` does not; `·` this client has no such thing; empty: this row's program does not try it.
"""

Results = Mapping[Client, Mapping[str, Result]]


def page(results: Results) -> str:
    """The page for what was run."""
    families = dict.fromkeys(client.family for client in results)
    tables = [_table(family, _of(family, results)) for family in families]
    seen = {name for row in results.values() for name in row}
    covered = "\n".join(f"- **{name}**: {text}" for name, text in capabilities().items() if name in seen)
    return "\n".join([_HEAD, *tables, "## What a capability covers\n", covered, ""])


def rows(text: str) -> dict[tuple[str, str, str], dict[str, str]]:
    """What a page says: family, client and version → capability → sign."""
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    family, columns = "", list[str]()
    for line in text.splitlines():
        if line.startswith("## "):
            family, columns = line.removeprefix("## "), []
        elif line.startswith("| "):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if not columns:
                columns = cells[2:]
                continue
            signs = dict(zip(columns, (cell[:1] for cell in cells[2:]), strict=True))
            found[family, cells[0], cells[1]] = signs
    return found


def remembered(text: str) -> dict[Client, dict[str, Result]]:
    """What a page says of the clients of the table, for those that are not run again."""
    marks = {sign: mark for mark, sign in SIGNS.items()}
    said = rows(text)
    return {
        client: {name: Result(marks[sign]) for name, sign in said[key(client)].items() if sign}
        for client in clients()
        if key(client) in said
    }


def signs(results: Mapping[str, Result], columns: Iterable[str]) -> dict[str, str]:
    """One row, in the order of ``columns``."""
    return {name: SIGNS[results[name].mark] if name in results else "" for name in columns}


def key(client: Client) -> tuple[str, str, str]:
    """The client's row in ``rows``."""
    return client.family, client.name, client.version


def _of(family: str, results: Results) -> Results:
    return {client: row for client, row in results.items() if client.family == family}


def _table(family: str, results: Results) -> str:
    columns = list(dict.fromkeys(name for row in results.values() for name in row))
    lines = [
        f"## {family}\n",
        f"| client | version | {' | '.join(columns)} |",
        "|---" * (len(columns) + 2) + "|",
    ]
    notes: list[str] = []
    for client, row in results.items():
        cells = []
        for name, sign in signs(row, columns).items():
            reason = client.known_limit.get(name, row[name].reason) if sign == "✗" else ""
            if reason and reason not in notes:
                notes.append(reason)
            cells.append(f"{sign} ({notes.index(reason) + 1})" if reason else sign)
        lines.append(f"| {client.name} | {client.version} | {' | '.join(cells)} |")
    lines.append("")
    lines += [f"({number}) {note}\n" for number, note in enumerate(notes, 1)]
    return "\n".join(lines)
