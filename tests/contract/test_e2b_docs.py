"""docs/e2b.md, as a newcomer would follow it: its code runs in the newest published clients, on real microVMs.

Needs root, QEMU, the templates and the package registries; a client out of reach is skipped by name.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pandastackd.child_server import ChildServer
from tests.contract.clients import Client, OutOfReach, clients
from tests.real_server import real_server

PAGE = Path(__file__).parents[2] / "docs" / "e2b.md"

pytestmark = [pytest.mark.needs("root", "qemu-system-x86_64"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChildServer]:
    with real_server(tmp_path_factory.mktemp("server") / "server.log") as server:
        yield server


def code(language: str) -> str:
    """All blocks of the page in a language, as one program."""
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE))


def newest(registry: str) -> Client:
    return next(client for client in clients() if (client.package, client.registry) == ("e2b", registry))


@pytest.mark.parametrize(
    ("registry", "language", "file"), [("pypi", "python", "page.py"), ("npm", "javascript", "page.mjs")]
)
def test_the_page_runs(server: ChildServer, tmp_path: Path, registry: str, language: str, file: str) -> None:
    try:
        interpreter = newest(registry).install(tmp_path)
    except OutOfReach as error:
        pytest.skip(f"e2b cannot be installed: {error}")
    (tmp_path / file).write_text(code(language))
    addresses = {
        "E2B_API_URL": server.url,
        "E2B_SANDBOX_URL": server.url,
        "E2B_API_KEY": server.admin_key.replace("pds_", "e2b_"),
    }
    done = subprocess.run(
        ["env", *(f"{name}={value}" for name, value in addresses.items()), interpreter, file],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hello" in done.stdout
