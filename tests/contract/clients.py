"""The published clients of clients.toml: what each is, and one of its programs run in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

HERE = Path(__file__).parent
INSTALL_SECONDS = 300
RUN_SECONDS = 600

Mark = Literal["ok", "not ok", "absent"]


class OutOfReach(Exception):
    """A client cannot be installed here, or cannot be led to the server: no registry, no program, no port."""


@dataclass(frozen=True)
class Result:
    """What became of one capability; ``reason`` is for those that are not ok."""

    mark: Mark
    reason: str = ""


@dataclass(frozen=True)
class Ran:
    """What a client's program found.

    Attributes:
        results: capability → what became of it.
        said: the end of all that it printed.
    """

    results: dict[str, Result]
    said: str


@dataclass(frozen=True)
class Client:
    """One version of one client, with the program that tries it: a row of the page."""

    family: str
    registry: Literal["pypi", "npm"]
    package: str
    version: str
    program: str
    needs: tuple[str, ...] = ()
    by_name: bool = False
    alone: bool = False
    known_limit: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """As it is shown to people and in test ids."""
        return f"{self.package} ({'PyPI' if self.registry == 'pypi' else 'npm'})"

    def run(self, folder: Path, environment: Mapping[str, str], within: Sequence[str] = ()) -> Ran:
        """Install into ``folder`` and run the program there.

        Args:
            environment: where the server is, in the variables that clients read.
            within: the command that the program is run by, if any.

        Raises:
            OutOfReach: it cannot be installed.
            AssertionError: the program ended before its checks began, or was not heard of for too long.
        """
        done = subprocess.run(
            [*within, self.install(folder), HERE / self.program],
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            cwd=folder,
            check=False,
            # Nothing of ours beside it: neither our own package of the same name nor our settings.
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8", **environment},
        )
        results = dict(_parse(line) for line in done.stdout.splitlines())
        said = f"\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        assert results, f"{self.program} tried nothing:{said}"
        assert done.returncode == 0, f"{self.program} ended with {done.returncode}:{said}"
        return Ran(results, said)

    def install(self, folder: Path) -> Path | str:
        """Install into ``folder``; what runs programs there. Raises OutOfReach."""
        return self._install_python(folder) if self.registry == "pypi" else self._install_node(folder)

    def _install_python(self, folder: Path) -> Path:
        python = folder / "venv" / "bin" / "python"
        uv = (sys.executable, "-m", "uv")
        _install(folder, *uv, "venv", "--quiet", "--python", sys.executable, folder / "venv")
        packages = (f"{self.package}=={self.version}", *self.needs)
        _install(folder, *uv, "pip", "install", "--quiet", "--no-config", "--python", python, *packages)
        return python

    def _install_node(self, folder: Path) -> str:
        (folder / "package.json").write_text("{}")
        packages = (f"{self.package}@{self.version}", *self.needs)
        _install(
            folder, "npm", "install", "--silent", "--no-fund", "--no-audit", "--prefer-offline", *packages
        )
        return "node"


def clients() -> list[Client]:
    """Every row, in the order of the table."""
    return [
        Client(
            family=entry["family"],
            registry=entry["registry"],
            package=entry["package"],
            version=version,
            program=entry["program"],
            needs=tuple(entry.get("needs", ())),
            by_name=entry.get("by_name", False),
            alone=entry.get("alone", False),
            known_limit=entry.get("known_limit", {}),
        )
        for entry in _table()["client"]
        for version in entry["versions"]
    ]


def capabilities() -> dict[str, str]:
    """Capability → what it covers."""
    return dict(_table()["capabilities"])


def newer() -> list[str]:
    """A sentence for every client whose newest pin has a newer release in its registry."""
    newest = {(client.registry, client.package): client.version for client in reversed(clients())}
    return [
        f"{package}: {latest} is out, the newest that is pinned is {pinned}"
        for (registry, package), pinned in sorted(newest.items())
        if (latest := _latest(registry, package)) != pinned
    ]


def _latest(registry: str, package: str) -> str:
    if registry == "npm":
        return _asked("npm", "view", package, "version")
    resolved = _asked(
        *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-config", "--no-deps"),
        *("--no-header", "--no-annotate", "--no-emit-index-url", "-"),
        given=package,
    )
    return resolved.partition("==")[2]


def _asked(*command: str, given: str = "") -> str:
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
    )
    if done.returncode:
        raise OutOfReach(f"{command[0]} cannot be asked: {done.stderr.strip()[-300:]}")
    return done.stdout.strip()


def _install(folder: Path, *command: str | Path) -> None:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            cwd=folder,
            check=False,
            # What this machine trusts (a company's own certificate, for one) holds for uv as well.
            env={**os.environ, "UV_SYSTEM_CERTS": "1"},
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise OutOfReach(str(error)) from None
    if done.returncode:
        raise OutOfReach(done.stderr.strip()[-300:])


def _parse(line: str) -> tuple[str, Result]:
    marks: tuple[Mark, ...] = ("not ok", "absent", "ok")
    for mark in marks:
        if line.startswith(f"{mark} "):
            name, _, reason = line.removeprefix(f"{mark} ").partition(": ")
            return name, Result(mark, reason)
    raise AssertionError(f"not a line of capability.py: {line}")


def _table() -> dict[str, Any]:
    return tomllib.loads((HERE / "clients.toml").read_text())
