"""The ``@pandastack/sdk`` package from npm, as it is, against our API: library and command line. Needs Node.js, npm."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.contract.fake_platform import fake_platform

PACKAGE = "@pandastack/sdk@0.9.0"
HERE = Path(__file__).parent
PROGRAMS = {
    "published_javascript.mjs": (
        *("account", "templates", "life", "commands", "streams", "logs", "files"),
        *("sleep", "snapshots", "forks", "unbuilt"),
    ),
    "published_cli.mjs": (
        *("account", "templates", "life", "commands", "logs", "files"),
        *("terminal", "ports", "snapshots", "forks", "unbuilt"),
    ),
}

pytestmark = [pytest.mark.needs("node", "npm"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the published package in it."""
    folder = tmp_path_factory.mktemp("npm")
    (folder / "package.json").write_text("{}")
    command = ["npm", "install", "--silent", "--no-fund", "--no-audit", PACKAGE]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{PACKAGE} cannot be installed: {done.stderr.strip()[-300:]}")
    return folder


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_published_package_works_unmodified(package: Path, tmp_path: Path, program: str) -> None:
    with fake_platform(tmp_path) as (url, key):
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        done = subprocess.run(
            ["node", HERE / program],
            capture_output=True,
            text=True,
            timeout=400,
            cwd=package,
            env={**environment, "PANDASTACK_API": url, "PANDASTACK_API_KEY": key},
            check=False,
        )
    assert done.stdout.splitlines() == [f"ok {name}" for name in PROGRAMS[program]], done.stderr
