"""The page is written and read back by the same hand. Needs nothing."""

from __future__ import annotations

import pytest

from tests.contract.capability import Absent, fails, run
from tests.contract.clients import Client, Result, capabilities, clients
from tests.contract.compatibility import key, page, remembered, rows, signs

OLD = Client("F", "pypi", "x", "1", "x.py", known_limit={"forks": "it has a reason"})
NEW = Client("F", "npm", "x", "2", "x.mjs")
RAN = {
    OLD: {"files": Result("ok"), "forks": Result("not ok", "what it said")},
    NEW: {"files": Result("not ok", "ValueError: no"), "terminal": Result("absent")},
}


def test_what_is_written_is_read_back() -> None:
    text = page(RAN)
    columns = ["files", "forks", "terminal"]
    assert rows(text) == {key(client): signs(ran, columns) for client, ran in RAN.items()}
    assert rows(text)[key(OLD)] == {"files": "✓", "forks": "✗", "terminal": ""}
    assert "it has a reason" in text
    assert "what it said" not in text
    assert "ValueError: no" in text


def test_a_program_says_what_became_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    def good(_: int) -> None:
        fails(ValueError, lambda: int("x"), "invalid literal")

    def bad(given: int) -> None:
        raise ValueError(f"two\nlines {given}")

    def missing(_: int) -> None:
        raise Absent

    def unmet(_: int) -> None:
        fails(ValueError, int)

    run((good, bad, missing, unmet), 1)
    assert capsys.readouterr().out.splitlines() == [
        "ok good",
        "not ok bad: ValueError: two lines 1",
        "absent missing",
        "not ok unmet: AssertionError: no ValueError",
    ]


def test_the_table_is_in_order() -> None:
    assert list(capabilities()) == sorted(capabilities())
    assert len(set(clients())) == len(clients())


def test_a_row_that_is_not_run_again_stays_as_it_is() -> None:
    ran = {client: {"files": Result("ok"), "forks": Result("absent")} for client in clients()[:2]}
    assert remembered(page(ran)) == ran
