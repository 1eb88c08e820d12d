"""Fixtures of the tests that run real microVMs: one server for the whole folder, one sandbox where sharing is fine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pandastack import PandaStack, Sandbox
from pandastackd.child_server import ChildServer
from tests.real_server import admin, real_server


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChildServer]:
    """A running server on the test data directory; every sandbox it holds is deleted at the end."""
    with real_server(tmp_path_factory.mktemp("server") / "server.log") as server:
        yield server


@pytest.fixture(scope="package")
def client(server: ChildServer) -> PandaStack:
    """A client with the admin key."""
    return admin(server)


@pytest.fixture
def sandbox(client: PandaStack) -> Iterator[Sandbox]:
    """A fresh sandbox of the template ``base``."""
    with client.sandboxes.create(template="base", ttl_seconds=600) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def shared_sandbox(client: PandaStack) -> Iterator[Sandbox]:
    """One sandbox for a whole module, for tests that do not disturb each other."""
    with client.sandboxes.create(template="base", ttl_seconds=1800) as sandbox:
        yield sandbox


def peak_memory_kib(pid: int) -> int:
    """The most memory a process has had resident so far, in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1])
