"""Terminals of our own SDK and command line, against our own API over real shells of this machine. Needs nothing."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pandastack import AsyncPandaStack, PandaStack, Sandbox, errors
from tests.contract.fake_platform import fake_platform

PAGE = Path(__file__).parents[2] / "docs" / "terminals-and-ssh.md"
BLOB = bytes(range(256)) * 4000


@pytest.fixture
def client(tmp_path: Path) -> Iterator[PandaStack]:
    with fake_platform(tmp_path) as (url, key), PandaStack(token=key, base_url=url) as client:
        yield client


@pytest.fixture
def sandbox(client: PandaStack) -> Sandbox:
    return client.sandboxes.create(template="base")


def test_a_terminal_is_typed_into_and_resized(sandbox: Sandbox) -> None:
    sandbox.filesystem.write("/work/here", "")
    with sandbox.terminal(
        'ls; echo "<$A$B>"', cwd="/work", env={"A": "x=ü y", "B": ""}, user="root"
    ) as listing:
        assert b"".join(event.data for event in listing).decode() == "here\r\n<x=ü y>\r\n"
    with sandbox.terminal(rows=31, cols=97) as terminal:
        terminal.send("stty size\n")
        seen = b""
        for event in terminal.events():
            seen += event.data
            if seen.count(b"31 97") and b"40 120" not in seen:
                terminal.resize(rows=40, cols=120)
                terminal.send("stty size; exit 7\n")
        assert b"40 120" in seen
    assert terminal.exit_code == 7
    terminal.send("nobody hears this")


def test_a_process_over_pipes_keeps_every_byte(sandbox: Sandbox) -> None:
    with sandbox.open_process("cat; printf 'e\\377' >&2; exit $A", env={"A": "3"}) as process:
        process.send(BLOB[:100_000])
        process.end_input()
        printed = {"stdout": b"", "stderr": b""}
        for event in process:
            printed[event.stream] += event.data
    assert printed == {"stdout": BLOB[:100_000], "stderr": b"e\xff"}
    assert process.exit_code == 3


@pytest.mark.anyio
async def test_the_same_without_blocking(client: PandaStack, sandbox: Sandbox) -> None:
    key = client.settings.api_key
    async with AsyncPandaStack(token=key, base_url=client.api_url) as other:
        same = await other.sandboxes.get(sandbox.id)
        async with await same.open_process(["cat", "-"]) as process:
            await process.send("ünï")
            await process.end_input()
            assert [event.data async for event in process] == ["ünï".encode()]
        async with await same.terminal("exit 4") as terminal:
            assert await terminal.wait() == 4


def test_what_cannot_be_opened_says_why(sandbox: Sandbox) -> None:
    with pytest.raises(errors.BadRequestError, match="rows and cols"):
        sandbox.terminal(rows=0)
    sandbox.pause()
    with pytest.raises(errors.ConflictError, match="paused"):
        sandbox.terminal()
    sandbox.kill()
    with pytest.raises(errors.NotFoundError):
        sandbox.open_process("true")


def _environment(client: PandaStack, home: Path) -> dict[str, str]:
    key = client.settings.api_key or ""
    return {**os.environ, "HOME": str(home), "PANDASTACK_API": client.api_url, "PANDASTACK_API_KEY": key}


def test_the_shell_command_carries_this_terminal(
    client: PandaStack, sandbox: Sandbox, tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
    command = [sys.executable, "-m", "pandastack.cli", "shell", sandbox.id]
    environment = _environment(client, tmp_path)
    for name in ("LINES", "COLUMNS"):
        environment.pop(name, None)
    shell = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    try:
        os.write(ours, b"stty size; echo rea''dy\n")
        assert b"33 99" in _until(ours, b"ready")
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 111, 0, 0))
        shell.send_signal(28)  # SIGWINCH; it has no controlling terminal here that would send it
        time.sleep(0.5)
        # Control-C must end what runs there, and not the command here.
        # A program that is just being started might not hear it: this one says when it is up.
        os.write(
            ours, b'stty size; python3 -c \'import time; print("u" + "p", flush=True); time.sleep(60)\'\n'
        )
        assert b"44 111" in _until(ours, b"up\r\n")
        os.write(ours, b"\x03")
        os.write(ours, b"exit 9\n")
        assert shell.wait(30) == 9
        assert termios.tcgetattr(theirs)[3] & termios.ECHO, "the terminal is as it was"
    finally:
        shell.kill()
        os.close(ours)
        os.close(theirs)


def _until(descriptor: int, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        ready, _, _ = select.select([descriptor], [], [], 30)
        assert ready, seen
        seen += os.read(descriptor, 4096)
    return seen


def test_the_shell_command_without_a_terminal(client: PandaStack, sandbox: Sandbox, tmp_path: Path) -> None:
    run = [sys.executable, "-m", "pandastack.cli", "shell", sandbox.id, "--", "cat; exit 6"]
    done = subprocess.run(
        run,
        input=b"typed\n",
        capture_output=True,
        env=_environment(client, tmp_path),
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (6, b"")
    assert b"typed" in done.stdout


def test_a_sandbox_without_ssh_server_is_told_apart(
    client: PandaStack, sandbox: Sandbox, tmp_path: Path
) -> None:
    if Path("/usr/sbin/sshd").exists():
        pytest.skip("this machine has an ssh server")
    run = [sys.executable, "-m", "pandastack.cli", "ssh", sandbox.id, "true"]
    done = subprocess.run(
        run, capture_output=True, env=_environment(client, tmp_path), timeout=60, check=False
    )
    assert done.returncode == 1
    assert b"lacks the package openssh-server" in done.stderr


def test_the_page_runs(
    client: PandaStack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PANDASTACK_API", client.api_url)
    monkeypatch.setenv("PANDASTACK_API_KEY", client.settings.api_key or "")
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    exec(compile(block, PAGE.name, "exec"), {})
    printed = capsys.readouterr().out
    assert "30 100" in printed
    assert "\n3\n" in printed
    assert "HELLO" in printed
