"""Fixtures of the fault tests: a server that tests may kill, and what the host holds beside it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pandastack import PandaStack
from pandastackd.child_server import ChildServer
from tests.real_server import admin, delete_all, real_server


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChildServer]:
    """A server that may be killed; whoever kills it starts it again."""
    with real_server(tmp_path_factory.mktemp("server") / "server.log") as server:
        yield server


@pytest.fixture
def client(server: ChildServer) -> Iterator[PandaStack]:
    """A client with the admin key, good over restarts; nothing it made is left afterwards."""
    client = admin(server)
    yield client
    delete_all(client)
