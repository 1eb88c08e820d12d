"""The rooms of ARCHITECTURE.md and what each may know, read from the imports themselves. Needs nothing.

Changing a line of the tables below is changing the architecture: do it together with ARCHITECTURE.md.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLATFORM = ROOT / "platform" / "src" / "pandastackd"
SDK = ROOT / "sdk" / "python" / "src" / "pandastack"

SHARED = {"config", "domain", "errors", "lifecycle", "log", "metrics", "programs"}
"""Modules beside the rooms that every room may use; they know only each other."""

MAY_KNOW: dict[str, set[str]] = {
    "api": {"control", "gateway", "guest"},
    "control": {"store", "guest"},
    "store": set(),
    "agent": {"vmm", "network", "disk", "snapshot", "guest"},
    "vmm": {"disk"},
    "network": set(),
    "disk": set(),
    "snapshot": {"disk", "vmm"},
    "template": {"agent", "disk", "guest", "snapshot"},
    "guest": set(),
    "gateway": {"control", "guest"},
    "doctor": {"disk", "network", "vmm"},
}
"""Room → rooms it may import. Composition roots, the other modules beside the rooms, may import all."""

ONLY_IN: dict[str, set[str]] = {
    "sqlalchemy": {"store"},
    "alembic": {"store"},
    "aiosqlite": {"store"},
    "asyncpg": {"store"},
    "pyroute2": {"network"},
    "fastapi": {"api", "gateway"},
    "mcp": {"api"},
    "mcp_types": {"api"},
    "starlette": {"api", "gateway"},
}
"""Library → rooms that may import it: SQL stays in the store, netlink in the network."""


def _imports(file: Path) -> Iterator[str]:
    """Absolute names of the modules that ``file`` imports, also inside functions and TYPE_CHECKING."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute, so that this test can read them"
            # `from pandastackd import x` names a module as well as `from pandastackd.x import y` does.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _files(room: str) -> list[Path]:
    return sorted((PLATFORM / room).rglob("*.py"))


def _rooms() -> list[str]:
    return sorted(path.parent.name for path in PLATFORM.glob("*/__init__.py"))


def _known(files: list[Path]) -> dict[str, list[str]]:
    """Top-level platform module → the files among ``files`` that import it."""
    known: dict[str, list[str]] = {}
    for file in files:
        for name in _imports(file):
            parts = name.split(".")
            if parts[0] == "pandastackd" and len(parts) > 1:
                known.setdefault(parts[1], []).append(str(file.relative_to(ROOT)))
    return known


def test_every_room_is_in_the_table() -> None:
    assert set(_rooms()) == set(MAY_KNOW)


@pytest.mark.parametrize("room", sorted(MAY_KNOW))
def test_a_room_knows_only_what_it_may(room: str) -> None:
    allowed = MAY_KNOW[room] | SHARED | {room, "__version__"}
    strangers = {name: files for name, files in _known(_files(room)).items() if name not in allowed}
    assert not strangers


@pytest.mark.parametrize("module", sorted(SHARED))
def test_shared_modules_know_no_room(module: str) -> None:
    file = PLATFORM / f"{module}.py"
    if file.exists():
        assert set(_known([file])) <= SHARED | {"__version__"}


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_a_library_stays_in_its_rooms(library: str) -> None:
    strangers = [
        str(file.relative_to(ROOT))
        for room in set(MAY_KNOW) - ONLY_IN[library]
        for file in _files(room)
        if any(name.split(".")[0] == library for name in _imports(file))
    ]
    assert not strangers


def test_no_room_is_in_a_circle() -> None:
    """The table itself: a circle in it would be two rooms that are really one."""
    done: set[str] = set()

    def visit(room: str, path: tuple[str, ...]) -> None:
        assert room not in path, f"circle: {' → '.join((*path, room))}"
        if room not in done:
            for other in MAY_KNOW[room]:
                visit(other, (*path, room))
            done.add(room)

    for room in MAY_KNOW:
        visit(room, ())


def test_the_sdk_stands_alone() -> None:
    strangers = [
        str(file.relative_to(ROOT))
        for file in SDK.rglob("*.py")
        if any(name.split(".")[0] == "pandastackd" for name in _imports(file))
    ]
    assert not strangers
