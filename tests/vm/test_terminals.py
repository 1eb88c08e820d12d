"""Terminals and ssh into real microVMs, with the system's own ssh, scp, sftp and rsync. Needs QEMU, the templates."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pandastack import PandaStack, ProcessOptions, Sandbox, errors
from pandastackd.child_server import ChildServer

pytestmark = [
    pytest.mark.needs("qemu-system-x86_64", "ssh", "scp", "sftp", "ssh-keygen"),
    pytest.mark.timeout(600),
]

CLI = (sys.executable, "-m", "pandastack.cli")


@pytest.fixture(scope="module")
def sandbox(client: PandaStack) -> Sandbox:
    return client.sandboxes.create(template="base", ttl_seconds=1800)


@pytest.fixture
def environment(server: ChildServer, tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "HOME": str(tmp_path),
        "PANDASTACK_API": server.url,
        "PANDASTACK_API_KEY": server.admin_key,
    }


def run(
    environment: dict[str, str], *command: str | Path, given: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command, input=given, capture_output=True, env=environment, timeout=180, check=False
    )


def test_programs_are_given_a_folder_an_environment_and_a_user(sandbox: Sandbox) -> None:
    sandbox.exec(["mkdir", "-p", "/tmp/here"], check=True)
    how: ProcessOptions = {"cwd": "/tmp/here", "env": {"A": "ü $B"}, "user": "root"}
    show = 'id -un; pwd; echo "$A"'
    with sandbox.terminal(show, **how) as terminal, sandbox.open_process(show, **how) as process:
        for program in (terminal, process):
            printed = b"".join(event.data for event in program).decode()
            assert printed.splitlines() == ["root", "/tmp/here", "ü $B"]
    for wrong in (ProcessOptions(cwd="/nowhere"), ProcessOptions(user="nobody-here")):
        with pytest.raises(errors.BadRequestError, match=r"nowhere|nobody-here"):
            sandbox.terminal(**wrong)


def test_a_terminal_in_a_microvm(sandbox: Sandbox) -> None:
    with sandbox.terminal(rows=31, cols=97) as terminal:
        terminal.send("stty size; whoami; tty; exit 7\n")
        seen = b"".join(event.data for event in terminal)
    assert terminal.exit_code == 7
    for part in (b"31 97", b"user", b"/dev/pts/"):
        assert part in seen


def test_a_client_that_vanishes_leaves_nothing(sandbox: Sandbox) -> None:
    terminal = sandbox.terminal("(sleep 4711 &) ; echo go; sleep 4711")
    for event in terminal:
        if b"go" in event.data:
            break
    terminal.close()
    count = "for i in $(seq 50); do pgrep -fc 'sleep [4]711' >/dev/null || exit 0; sleep 0.2; done; exit 1"
    assert sandbox.exec(count, timeout_seconds=30).exit_code == 0


def test_deleting_the_sandbox_ends_its_terminals_in_words(client: PandaStack) -> None:
    sandbox = client.sandboxes.create(template="base")
    terminal = sandbox.terminal()
    sandbox.kill()
    with pytest.raises(errors.NotFoundError, match="was deleted"):
        terminal.wait()


def test_ssh_runs_a_command_and_copies_files(
    client: PandaStack, sandbox: Sandbox, environment: dict[str, str], tmp_path: Path
) -> None:
    done = run(environment, *CLI, "ssh", sandbox.id, "whoami; cat; exit 5", given=b"over ssh\n")
    assert (done.returncode, done.stdout) == (5, b"user\nover ssh\n"), done.stderr
    blob = tmp_path / "blob"
    blob.write_bytes(os.urandom(3_000_000))
    config = tmp_path / "ssh_config"
    printed = run(environment, *CLI, "ssh-config", sandbox.id, "--name", "box")
    assert printed.returncode == 0, printed.stderr
    config.write_bytes(printed.stdout)
    options = ("-F", str(config))
    assert run(environment, "scp", *options, blob, "box:copy").returncode == 0
    assert (
        run(
            environment, "sftp", *options, "-b", "-", "box", given=f"get copy {tmp_path}/back\n".encode()
        ).returncode
        == 0
    )
    assert (tmp_path / "back").read_bytes() == blob.read_bytes()
    tty = run(environment, "ssh", *options, "-tt", "box", "stty size; tty")
    assert b"/dev/pts/" in tty.stdout, tty.stderr
    # No daemon and no port: nothing of it is left when the connections are gone.
    left = sandbox.exec(
        "for i in $(seq 50); do pgrep -x sshd >/dev/null || exit 0; sleep 0.2; done; ps aux; exit 1"
    )
    assert left.exit_code == 0, left.stdout
    assert not sandbox.exec("ls ~/.cache/pandastack/ssh/*/client.*").stdout
    assert 22 not in sandbox.preview_urls()


def test_rsync_over_ssh(sandbox: Sandbox, environment: dict[str, str], tmp_path: Path) -> None:
    if run(environment, "which", "rsync").returncode:
        pytest.skip("needs the program rsync")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "ü.txt").write_text("content")
    done = run(
        environment,
        "rsync",
        "-a",
        "-e",
        f"{sys.executable} -m pandastack.cli ssh",
        f"{tmp_path}/tree/",
        f"{sandbox.id}:tree",
    )
    assert done.returncode == 0, done.stderr
    assert sandbox.filesystem.read("/home/user/tree/ü.txt") == b"content"


def test_only_the_key_of_the_connection_is_let_in(
    sandbox: Sandbox, environment: dict[str, str], tmp_path: Path
) -> None:
    config = tmp_path / "config"
    config.write_bytes(run(environment, *CLI, "ssh-config", sandbox.id, "--name", "box").stdout)
    other = tmp_path / "other"
    assert run(environment, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other).returncode == 0
    text = config.read_text().splitlines()
    config.write_text(
        "\n".join(f'    IdentityFile "{other}"' if "IdentityFile" in line else line for line in text)
    )
    done = run(environment, "ssh", "-F", config, "box", "true")
    assert done.returncode == 255
    assert b"Permission denied" in done.stderr


def test_no_two_sandboxes_share_a_host_key(
    client: PandaStack, sandbox: Sandbox, environment: dict[str, str]
) -> None:
    def host_key(each: Sandbox) -> bytes:
        done = run(environment, *CLI, "ssh", each.id, "cat ~/.cache/pandastack/ssh/*/host_key.pub")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(b"ssh-ed25519") == 1, "a fork keeps its parent's key"
        return done.stdout

    assert not sandbox.exec("ls /etc/ssh/ssh_host_*").stdout
    first = host_key(sandbox)
    child = sandbox.fork()
    try:
        assert host_key(child) != first
        assert host_key(sandbox) == first
    finally:
        child.kill()
