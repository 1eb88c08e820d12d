"""Every published client of clients.toml, as it is, against a whole platform with real microVMs.

Needs root, QEMU, the templates and the package registries; a client out of reach is skipped by name. With
``PANDASTACK_WRITE_COMPATIBILITY=1`` (`make compatibility`) the page is written instead of compared.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.contract import compatibility
from tests.contract.clients import Client, OutOfReach, Result, clients

WRITE = bool(os.environ.get("PANDASTACK_WRITE_COMPATIBILITY"))

pytestmark = [pytest.mark.needs("root", "qemu-system-x86_64"), pytest.mark.timeout(1200)]

SEEN: dict[Client, dict[str, Result]] = {}
"""What this run saw, for the last test."""


@pytest.mark.parametrize("client", clients(), ids=lambda client: f"{client.name} {client.version}")
def test_a_client_does_what_the_page_says(addresses: dict[str, str], tmp_path: Path, client: Client) -> None:
    try:
        seen = SEEN[client] = client.run(tmp_path, addresses)
    except OutOfReach as error:
        pytest.skip(f"{client.name} {client.version} cannot be installed: {error}")
    red = {name: result.reason for name, result in seen.items() if result.mark == "not ok"}
    assert {name: reason for name, reason in red.items() if name not in client.known_limit} == {}
    outlived = set(client.known_limit) - set(red)
    assert not outlived, f"{outlived} work now: take them out of known_limit in clients.toml"
    if not WRITE:
        said = compatibility.rows(compatibility.PAGE.read_text()).get(compatibility.key(client), {})
        assert compatibility.signs(seen, {**said, **seen}) == said, (
            "`make compatibility` writes the page anew"
        )


def test_the_page_has_a_row_for_every_client_of_the_table() -> None:
    said = compatibility.rows(compatibility.PAGE.read_text())
    assert WRITE or set(said) == {compatibility.key(client) for client in clients()}


def test_the_page_is_what_was_run() -> None:
    if WRITE:
        # Rows that were not run now stay as they are.
        known = {**compatibility.remembered(compatibility.PAGE.read_text()), **SEEN}
        page = compatibility.page({client: known[client] for client in clients() if client in known})
        compatibility.PAGE.write_text(page)
    elif set(SEEN) != set(clients()):
        pytest.skip("not every client was run here")
    else:
        assert compatibility.PAGE.read_text() == compatibility.page(SEEN), (
            "`make compatibility` writes the page anew"
        )
