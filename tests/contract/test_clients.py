"""Every published client of clients.toml, as it is, against a whole platform with real microVMs.

Needs root, QEMU, the templates and the package registries; a client out of reach is skipped by name. With
``PANDASTACK_WRITE_COMPATIBILITY=1`` (`make compatibility`) the page is written instead of compared.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack

import pytest

from tests.contract import compatibility
from tests.contract.clients import Client, OutOfReach, Ran, Result, clients
from tests.contract.wildcard import PortTaken, Wildcard, wildcard

WRITE = bool(os.environ.get("PANDASTACK_WRITE_COMPATIBILITY"))

pytestmark = [pytest.mark.needs("root", "qemu-system-x86_64"), pytest.mark.timeout(1200)]

AT_ONCE = 2
"""Most of a row is one guest at work, and the smallest machine has two processors."""

SEEN: dict[Client, dict[str, Result]] = {}
"""What this run saw, for the last test."""


@pytest.fixture(scope="module")
def runs(
    addresses: dict[str, str], request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[Client, Future[Ran]]]:
    """The runs of all clients that were selected, ``AT_ONCE`` at a time; first, and one by one, those that go alone."""
    folders = {client: tmp_path_factory.mktemp("client") for client in _selected(request.session)}
    with ExitStack() as stack:
        names: Wildcard | OutOfReach
        try:
            names = stack.enter_context(wildcard(addresses["E2B_API_URL"], tmp_path_factory.mktemp("names")))
        except PortTaken as error:
            names = error

        def run(client: Client) -> Ran:
            if not client.by_name:
                return client.run(folders[client], addresses)
            if isinstance(names, OutOfReach):
                raise names
            key = {"E2B_API_KEY": addresses["E2B_API_KEY"]}
            return client.run(folders[client], {**names.environment, **key}, names.command)

        def run_after(client: Client, others: Collection[Future[Ran]]) -> Ran:
            wait(others)
            return run(client)

        one, several = stack.enter_context(ThreadPoolExecutor(1)), ThreadPoolExecutor(AT_ONCE)
        stack.callback(several.shutdown, cancel_futures=True)
        alone = {client: one.submit(run, client) for client in folders if client.alone}
        rest = [client for client in folders if not client.alone]
        yield alone | {client: several.submit(run_after, client, alone.values()) for client in rest}


def _selected(session: pytest.Session) -> list[Client]:
    given = [item.callspec.params.get("client") for item in session.items if hasattr(item, "callspec")]
    return [client for client in given if isinstance(client, Client)]


@pytest.mark.parametrize("client", clients(), ids=lambda client: f"{client.name} {client.version}")
def test_a_client_does_what_the_page_says(runs: Mapping[Client, Future[Ran]], client: Client) -> None:
    try:
        ran = runs[client].result()
    except OutOfReach as error:
        pytest.skip(f"{client.name} {client.version} is out of reach: {error}")
    seen = SEEN[client] = ran.results
    red = {name: result.reason for name, result in seen.items() if result.mark == "not ok"}
    if red:
        print(ran.said)
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
