"""Derive the sync client from the async one: ``python scripts/generate_sync.py [--check]``.

Every module of ``_async`` becomes one of ``_sync``, except ``_runtime``, which is written by hand on both
sides because it holds what differs by more than keywords. ``--check`` writes nothing and fails when a file is
not current.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import unasync

SOURCES = Path(__file__).resolve().parent.parent / "src" / "pandastack"
BY_HAND = {"_runtime.py", "__init__.py"}
TIDIED = "I,F401,F811,C416,PYI016,UP028"
WORDS = {
    "_async": "_sync",
    "aclose": "close",
    "aclosing": "closing",
    "aiter_bytes": "iter_bytes",
    "aread": "read",
}


def generate(target: Path) -> list[Path]:
    """Write the sync twin of every async module into ``target``; returns what was written, formatted."""
    sources = [path for path in sorted((SOURCES / "_async").glob("*.py")) if path.name not in BY_HAND]
    names = {name for path in sources for name in re.findall(r"\bAsync[A-Z]\w*", path.read_text())}
    words = WORDS | {name: name.removeprefix("Async") for name in names}
    with tempfile.TemporaryDirectory() as scratch:
        staged = Path(scratch) / "_async"
        staged.mkdir()
        for source in sources:
            (staged / source.name).write_text(source.read_text())
        rule = unasync.Rule("/_async/", "/_sync/", additional_replacements=words)
        unasync.unasync_files([str(path) for path in sorted(staged.glob("*.py"))], [rule])
        written = []
        for source in sources:
            text = (Path(scratch) / "_sync" / source.name).read_text()
            out = target / source.name
            out.write_text(
                f"# Generated from _async/{source.name} by scripts/generate_sync.py; do not edit.\n{text}"
            )
            written.append(out)
    # Removing words shortens lines and leaves doubles and empty loops; the linter's own fixes tidy them.
    ruff = [sys.executable, "-m", "ruff"]
    config = ["--config", str(_ruff_config())]
    files = [str(path) for path in written]
    subprocess.run(
        [*ruff, "check", "--quiet", "--fix-only", "--unsafe-fixes", "--select", TIDIED, *config, *files],
        check=True,
    )
    subprocess.run([*ruff, "format", "--quiet", *config, *files], check=True)
    return written


def stale() -> list[str]:
    """The names of ``_sync`` files that differ from what would be generated, or that nothing generates."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = {path.name: path.read_text() for path in generate(Path(scratch))}
    present = {path.name: path.read_text() for path in (SOURCES / "_sync").glob("*.py")}
    names = fresh.keys() | (present.keys() - BY_HAND)
    return sorted(name for name in names if fresh.get(name) != present.get(name))


def _ruff_config() -> Path:
    return next(
        path
        for folder in SOURCES.parents
        if (path := folder / "pyproject.toml").exists() and "[tool.ruff]" in path.read_text()
    )


def main() -> int:
    """Generate, or check; the exit status says whether all is current."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is not current")
    if not parser.parse_args().check:
        generate(SOURCES / "_sync")
        return 0
    if names := stale():
        print("not current, run scripts/generate_sync.py:", *names, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
