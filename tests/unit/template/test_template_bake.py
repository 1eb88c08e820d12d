"""The order in which a machine is made ready to be frozen, and what is said when it cannot be.

The guest is a stand-in.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import cast

import pytest

from pandastackd.errors import HostFailure
from pandastackd.guest import Command, Event, GuestClient, RunResult, Started
from pandastackd.template.bake import run_commands, warm_up
from pandastackd.template.recipe import Recipe, load_catalog

pytestmark = pytest.mark.anyio

RECIPE = """
commands = ["make it", "make more"]
warm = ["warm one", "warm two"]
[env]
A = "1"
[start]
command = "serve"
[ready]
command = "is it there"
timeout_seconds = 1
"""


class Guest:
    """Answers as told and remembers what it was asked, in order."""

    def __init__(self, answer: Callable[[str], RunResult] = lambda _: RunResult(b"", b"", 0)) -> None:
        self.asked: list[tuple[str, str]] = []
        self._answer = answer

    async def run(self, command: Command, *, output_limit: int = 0) -> RunResult:
        assert command.args[:3] == ("/bin/bash", "-l", "-c")
        assert command.env == {"A": "1"}
        assert command.timeout_seconds
        self.asked.append((command.user or "", command.args[3]))
        return self._answer(command.args[3])

    async def start(self, command: Command) -> AsyncGenerator[Event]:
        assert command.timeout_seconds is None, "a start command runs as long as the machine"
        self.asked.append((command.user or "", command.args[3]))
        yield Started(7)

    async def sync(self) -> None:
        self.asked.append(("", "sync"))


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    (tmp_path / "it").mkdir()
    (tmp_path / "it/template.toml").write_text(RECIPE)
    return load_catalog(tmp_path).find("it")


def quiet(step: str, detail: str) -> None:
    """Tells nobody."""


async def test_started_ready_warm_and_written_out_in_this_order(recipe: Recipe) -> None:
    tries = iter([7, 7, 0])
    guest = Guest(lambda command: RunResult(b"", b"", next(tries) if command == "is it there" else 0))
    await warm_up(cast("GuestClient", guest), recipe, progress=quiet)
    expected = ["serve", *["is it there"] * 3, "warm one", "warm two", "sync"]
    assert [command for _, command in guest.asked] == expected
    assert {user for user, command in guest.asked if command != "sync"} == {"user"}


async def test_what_is_never_ready_says_why(recipe: Recipe) -> None:
    guest = Guest(lambda _: RunResult(b"", b"connection refused", 7))
    with pytest.raises(HostFailure, match=r"not ready after 1 s.*code 7: connection refused") as failed:
        await warm_up(cast("GuestClient", guest), recipe, progress=quiet)
    assert failed.value.code == "template_not_ready"
    assert "sync" not in [command for _, command in guest.asked]


async def test_build_commands_run_as_root_until_one_fails(recipe: Recipe) -> None:
    guest = Guest(lambda command: RunResult(b"", b"no rule\n", 2 if command == "make more" else 0))
    with pytest.raises(HostFailure, match="'make more' ended with code 2: no rule"):
        await run_commands(cast("GuestClient", guest), recipe, progress=quiet)
    assert guest.asked == [("root", "make it"), ("root", "make more")]
