"""E2B's published clients, as they are, against a whole platform with real microVMs.

Needs root, QEMU, the templates, uv or npm, and the package registries.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pandastackd.child_server import ChildServer
from tests.real_server import real_server

HERE = Path(__file__).parent
PYTHON_CLIENTS = ("e2b", "e2b==2.31.0")
"""The newest, and one that agent frameworks pin: it creates and connects at the older addresses."""

pytestmark = [pytest.mark.needs("root", "qemu-system-x86_64"), pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChildServer]:
    """A running server on the test data directory; every sandbox it holds is deleted at the end."""
    with real_server(tmp_path_factory.mktemp("server") / "server.log") as server:
        yield server


def install(*steps: list[str | Path], cwd: Path) -> None:
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False, cwd=cwd)
        if done.returncode:
            pytest.skip(f"the client cannot be installed: {done.stderr.strip()[-300:]}")


def python_with(folder: Path, *packages: str) -> Path:
    python = folder / "venv" / "bin" / "python"
    install(
        ["uv", "venv", "--quiet", "--python", sys.executable, folder / "venv"],
        ["uv", "pip", "install", "--quiet", "--python", python, *packages],
        cwd=folder,
    )
    return python


def run(server: ChildServer, folder: Path, *command: str | Path) -> list[str]:
    """What a client's program printed; it must end well."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=400,
        cwd=folder,
        check=False,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "E2B_API_KEY": server.admin_key.replace("pds_", "e2b_"),
            "E2B_API_URL": server.url,
            "E2B_SANDBOX_URL": server.url,
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [line.removeprefix("ok ") for line in done.stdout.splitlines()]


@pytest.mark.needs("uv")
@pytest.mark.parametrize("package", PYTHON_CLIENTS)
def test_the_python_client(server: ChildServer, tmp_path: Path, package: str) -> None:
    python = python_with(tmp_path, package)
    assert run(server, tmp_path, python, HERE / "e2b_python.py") == [
        *("commands", "background", "files", "watching", "terminal", "looking", "ports", "sleeping", "ending")
    ]


@pytest.mark.needs("uv")
def test_the_python_code_interpreter(server: ChildServer, tmp_path: Path) -> None:
    python = python_with(tmp_path, "e2b-code-interpreter")
    assert run(server, tmp_path, python, HERE / "e2b_interpreter.py") == [
        *("cells", "errors", "pictures", "tables", "contexts")
    ]


@pytest.mark.needs("node", "npm")
def test_the_javascript_client(server: ChildServer, tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text("{}")
    install(["npm", "install", "--silent", "--no-fund", "--no-audit", "e2b"], cwd=tmp_path)
    assert run(server, tmp_path, "node", HERE / "e2b_javascript.mjs") == [
        *("commands", "files", "looking", "sleeping", "ending")
    ]
