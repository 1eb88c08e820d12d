"""The ``pandastack`` client from PyPI, as it is, against our API. Needs uv and the package registry.

The client lives in a virtual environment of its own, since our SDK has the same name.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.fake_platform import fake_platform

VERSION = "0.10.0"
CHECKS = (
    *("account", "templates", "life", "commands", "files"),
    *("sleep", "snapshots", "forks", "unbuilt"),
)
SCRIPT = Path(__file__).with_name("published_python.py")

pytestmark = [pytest.mark.needs("uv"), pytest.mark.timeout(600)]


@pytest.fixture(scope="session")
def client_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a fresh environment with the published client."""
    where = tmp_path_factory.mktemp("client") / "venv"
    python = where / "bin" / "python"
    steps: tuple[list[str | Path], ...] = (
        ["uv", "venv", "--quiet", "--python", sys.executable, where],
        ["uv", "pip", "install", "--quiet", "--python", python, f"pandastack=={VERSION}"],
    )
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"pandastack {VERSION} cannot be installed: {done.stderr.strip()[-300:]}")
    return python


def test_the_published_client_works_unmodified(client_python: Path, tmp_path: Path) -> None:
    with fake_platform(tmp_path) as (url, key):
        done = subprocess.run(
            [client_python, SCRIPT, url, key],
            capture_output=True,
            text=True,
            timeout=300,
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split("\n") == [
        *(f"ok {name}" for name in CHECKS),
        "",
    ]
