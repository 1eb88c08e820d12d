"""The pages about the SDK and the command line: their code runs, their commands are real."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from pandastack.cli.app import app
from pandastack.testing import MockPlatform

DOCS = Path(__file__).resolve().parents[3] / "docs"


def _blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MockPlatform:
    platform = MockPlatform()
    monkeypatch.setattr(httpx, "HTTPTransport", lambda **_options: platform.transport())
    monkeypatch.setattr(httpx, "AsyncHTTPTransport", lambda **_options: platform.transport())
    monkeypatch.setenv("PANDASTACK_API_KEY", platform.key)
    monkeypatch.chdir(tmp_path)
    return platform


@pytest.mark.usefixtures("platform")
def test_the_sdk_page_runs() -> None:
    names: dict[str, object] = {}
    blocks = _blocks("python-sdk.md", "python")
    assert len(blocks) > 8
    for number, block in enumerate(blocks):
        exec(compile(block, f"python-sdk.md, block {number}", "exec"), names)


def _commands() -> list[str]:
    blocks = [*_blocks("cli.md", "console"), *_blocks("terminals-and-ssh.md", "console")]
    return [line for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("line", _commands())
def test_every_command_of_the_page_is_understood(platform: MockPlatform, line: str, tmp_path: Path) -> None:
    words = shlex.split(line)
    assert words[0] == "pandastack"
    runner = CliRunner()
    for name in ("results.csv", "local"):
        (tmp_path / name).write_text("x")
    made = runner.invoke(app, ["sandbox", "create", "-q"]).stdout.strip()
    result = runner.invoke(app, [made if word == "ID" else word for word in words[1:]], input=platform.key)
    assert result.exit_code in {0, 1}, result.output  # 2 is wrong usage; 1 is that the mock has no such thing
    assert result.exception is None or isinstance(result.exception, SystemExit)


def test_every_command_is_on_the_page() -> None:
    import typer

    def leaves(group: typer.Typer, lead: str) -> list[str]:
        names = [
            f"{lead} {command.name or command.callback.__name__}"
            for command in group.registered_commands
            if command.callback is not None and not command.hidden
        ]
        for sub in group.registered_groups:
            if not sub.hidden and sub.typer_instance is not None:
                names += leaves(sub.typer_instance, f"{lead} {sub.name}")
        return names

    page = "\n".join(_commands())
    assert [name for name in leaves(app, "pandastack") if f"{name}" not in page] == []
