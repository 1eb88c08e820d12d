"""The ``@pandastack/sdk`` package from npm, as it is, against our API: its library. Needs Node.js and the registry."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.contract.fake_platform import fake_platform

PACKAGE = "@pandastack/sdk@0.9.0"
HERE = Path(__file__).parent
LIBRARY_CHECKS = (
    *("account", "templates", "life", "commands", "streams", "logs", "files"),
    *("sleep", "snapshots", "forks", "unbuilt"),
)

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


def checks(package: Path, home: Path, script: str) -> list[str]:
    """The checks that ``script`` passed; it must end well."""
    with fake_platform(home) as (url, key):
        done = subprocess.run(
            ["node", HERE / script, url, key],
            capture_output=True,
            text=True,
            timeout=300,
            cwd=package,
            env={"PATH": os.environ["PATH"], "HOME": str(home)},
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    return [line.removeprefix("ok ") for line in done.stdout.splitlines()]


def test_the_published_library_works_unmodified(package: Path, tmp_path: Path) -> None:
    assert checks(package, tmp_path, "published_javascript.mjs") == list(LIBRARY_CHECKS)
