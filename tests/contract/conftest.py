"""The server of those contract tests that need real microVMs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.wildcard import DOMAIN
from tests.real_server import real_server


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Where a running server is, in the variables that clients read; its sandboxes are deleted at the end."""
    env = {"PANDASTACK_DOMAIN": DOMAIN}
    with real_server(tmp_path_factory.mktemp("server") / "server.log", env) as server:
        yield {
            "PANDASTACK_API": server.url,
            "PANDASTACK_API_KEY": server.admin_key,
            "PANDASTACK_COMMAND": str(Path(sys.executable).with_name("pandastack")),
            "E2B_API_URL": server.url,
            "E2B_SANDBOX_URL": server.url,
            "E2B_API_KEY": server.admin_key.replace("pds_", "e2b_"),
        }
