"""Commands in a real guest: every way a command can end, print, fork or refuse to stop.

Needs root, QEMU and the templates.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from pandastack import BadRequestError, ExecOutput, Sandbox, SandboxTimeout
from pandastackd.child_server import ChildServer

from .conftest import peak_memory_kib

MIB = 1 << 20
PATIENCE_SECONDS = 40.0


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until ``condition`` holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"did not happen: {what}"
        time.sleep(0.2)


def alive(sandbox: Sandbox, pattern: str) -> bool:
    """Whether a process whose arguments are exactly ``pattern`` runs in the guest."""
    return sandbox.exec(["pgrep", "-fx", pattern]).exit_code == 0


def test_folder_environment_user_and_input_of_a_command(shared_sandbox: Sandbox) -> None:
    shared_sandbox.exec(["mkdir", "-p", "/tmp/here"], check=True)
    ran = shared_sandbox.exec(
        'id -un; pwd; printf "%s\\n" "$A"; tr a-z A-Z',
        cwd="/tmp/here",
        env={"A": "ü $B"},
        user="root",
        stdin="in\n",
    )
    assert ran.stdout == "root\n/tmp/here\nü $B\nIN\n"
    much = "0123456789abcde\n" * 50_000
    assert shared_sandbox.exec("sha256sum; wc -c <<<x", stdin=much).stdout.split()[-1] == "2"
    assert shared_sandbox.exec("cat", stdin=much).stdout == much
    assert shared_sandbox.exec("exec <&-; exit 3", stdin=much).exit_code == 3
    for wrong in ({"cwd": "/nowhere"}, {"user": "nobody-here"}):
        with pytest.raises(BadRequestError, match=r"nowhere|nobody-here"):
            shared_sandbox.exec("true", **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("command", "exit_code", "stdout", "stderr"),
    [
        ("true", 0, "", ""),
        ("exit 7", 7, "", ""),
        ("exit 255", 255, "", ""),
        ("echo out; echo err >&2; exit 3", 3, "out\n", "err\n"),
        ("kill -TERM $$", 143, "", ""),
        ("kill -KILL $$", 137, "", ""),
        ('printf %s "it\'s \\"quoted\\" \\$HOME"', 0, 'it\'s "quoted" $HOME', ""),
        ("echo 'ünïcødé 日本語 🐼'", 0, "ünïcødé 日本語 🐼\n", ""),
        ("id -un; pwd", 0, "user\n/home/user\n", ""),
        ("sudo id -un", 0, "root\n", ""),
        ("cat; echo end", 0, "end\n", ""),  # standard input is empty
        ("read line; echo $?", 0, "1\n", ""),
        ("python3 -c 'import sys; print(repr(sys.stdin.read()))'", 0, "''\n", ""),
        ("printf 'a\\000b'", 0, "a\0b", ""),
        ("printf '\\377\\376x'", 0, "\ufffd\ufffdx", ""),
        ("echo $LANG", 0, "C.UTF-8\n", ""),
        ("for i in 1 2 3; do\n echo $i\ndone", 0, "1\n2\n3\n", ""),
    ],
)
def test_what_a_command_says_and_how_it_ends(
    shared_sandbox: Sandbox, command: str, exit_code: int, stdout: str, stderr: str
) -> None:
    done = shared_sandbox.exec(command, timeout_seconds=60)
    assert (done.exit_code, done.stdout, done.stderr) == (exit_code, stdout, stderr)


def test_a_command_that_is_not_there_is_bash_s_answer(shared_sandbox: Sandbox) -> None:
    done = shared_sandbox.exec("no-such-program-here")
    assert done.exit_code == 127
    assert "not found" in done.stderr


def test_arguments_of_a_list_arrive_as_they_are(shared_sandbox: Sandbox) -> None:
    strange = ["a b", "", "$HOME", "`id`", "'", '"', "\\", "*", "ж\n", "-n"]
    code = "import sys, json; print(json.dumps(sys.argv[1:]))"
    done = shared_sandbox.exec(["python3", "-c", code, *strange])
    assert json.loads(done.stdout) == strange


def test_bytes_that_are_no_text_stream_exactly(shared_sandbox: Sandbox) -> None:
    printed = b"".join(
        event.data
        for event in shared_sandbox.exec_events("head -c 65536 /dev/urandom > /tmp/noise; cat /tmp/noise")
        if isinstance(event, ExecOutput) and event.stream == "stdout"
    )
    expected = shared_sandbox.filesystem.read("/tmp/noise")
    assert printed.decode("utf-8", "replace") == expected.decode("utf-8", "replace")


def test_text_is_not_cut_inside_a_character(shared_sandbox: Sandbox) -> None:
    pieces: list[str] = []
    code = (
        "import sys, time\nfor byte in '€🐼é'.encode():"
        " sys.stdout.buffer.write(bytes([byte])); sys.stdout.flush(); time.sleep(.02)"
    )
    assert shared_sandbox.exec_stream(["python3", "-c", code], on_stdout=pieces.append) == 0
    assert "".join(pieces) == "€🐼é"


def test_output_comes_while_the_command_runs(shared_sandbox: Sandbox) -> None:
    arrived: list[float] = []
    assert (
        shared_sandbox.exec_stream(
            "echo one; sleep 2; echo two", on_stdout=lambda _: arrived.append(time.monotonic())
        )
        == 0
    )
    assert arrived[-1] - arrived[0] > 1


@pytest.mark.parametrize("streamed", [False, True])
def test_output_without_end_is_cut_off_by_the_timeout(
    server: ChildServer, shared_sandbox: Sandbox, streamed: bool
) -> None:
    before = peak_memory_kib(server.pid)
    run = shared_sandbox.exec_stream if streamed else shared_sandbox.exec
    with pytest.raises(SandboxTimeout) as late:
        run("yes", timeout_seconds=3)
    assert "3" in late.value.message
    assert peak_memory_kib(server.pid) - before < 48 * 1024
    eventually(lambda: not alive(shared_sandbox, "yes"), "`yes` is killed")


_TREE = """\
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "1114"])
time.sleep(1115)
"""


def test_a_timeout_kills_the_whole_tree(shared_sandbox: Sandbox) -> None:
    shared_sandbox.filesystem.write("/tmp/tree.py", _TREE)
    tree = (
        "setsid sleep 1111 & (sleep 1112 &) ;"
        " nohup setsid sh -c 'trap \"\" TERM HUP INT; sleep 1113; :' &"
        " python3 /tmp/tree.py"
    )
    with pytest.raises(SandboxTimeout) as late:
        shared_sandbox.exec(tree, timeout_seconds=4)
    assert late.value.status_code == 504
    assert "killed" in late.value.message
    left = shared_sandbox.exec("pgrep -fa 'sleep 111[0-9]'; pgrep -fa tree[.]py")
    assert left.stdout == ""


def test_a_daemon_outlives_the_command_that_started_it(shared_sandbox: Sandbox) -> None:
    started = shared_sandbox.exec(
        "setsid sleep 2221 >/dev/null 2>&1 </dev/null & echo started", timeout_seconds=60
    )
    assert started.stdout == "started\n"
    assert alive(shared_sandbox, "sleep 2221")
    shared_sandbox.exec("pkill -f 'sleep 222[1]'")


def test_a_daemon_that_keeps_the_output_open_does_not_hold_the_answer_back(shared_sandbox: Sandbox) -> None:
    began = time.monotonic()
    started = shared_sandbox.exec("sleep 2222 & echo started", timeout_seconds=120)
    assert started.stdout == "started\n"
    assert time.monotonic() - began < 60
    assert alive(shared_sandbox, "sleep 2222")
    shared_sandbox.exec("pkill -f 'sleep 222[2]'")


def test_a_client_that_goes_away_takes_its_command_with_it(shared_sandbox: Sandbox) -> None:
    events = shared_sandbox.exec_events("setsid sleep 3331 & echo up; sleep 3332", timeout_seconds=600)
    assert isinstance(next(events), ExecOutput)
    assert alive(shared_sandbox, "sleep 3332")
    events.close()
    eventually(lambda: not alive(shared_sandbox, "sleep 3332"), "the command is killed")
    eventually(lambda: not alive(shared_sandbox, "sleep 3331"), "and its children")


def test_a_long_output_streams_in_flat_memory(server: ChildServer, shared_sandbox: Sandbox) -> None:
    before = peak_memory_kib(server.pid)
    size = 0
    for event in shared_sandbox.exec_events("head -c 64M /dev/zero | tr '\\0' x", timeout_seconds=200):
        if isinstance(event, ExecOutput):
            size += len(event.data)
    assert size == 64 * MIB
    assert peak_memory_kib(server.pid) - before < 48 * 1024


def test_a_long_output_is_also_answered_whole(server: ChildServer, shared_sandbox: Sandbox) -> None:
    before = peak_memory_kib(server.pid)
    done = shared_sandbox.exec("head -c 32M /dev/zero | tr '\\0' x; echo e >&2", timeout_seconds=200)
    assert (len(done.stdout), set(done.stdout), done.stderr, done.exit_code) == (32 * MIB, {"x"}, "e\n", 0)
    assert peak_memory_kib(server.pid) - before < 48 * 1024


def test_many_commands_at_once_do_not_mix(shared_sandbox: Sandbox) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: shared_sandbox.exec(f"sleep 0.2; echo {n}").stdout, range(16)))
    assert answers == [f"{n}\n" for n in range(16)]


@pytest.mark.parametrize("command", ["", "   ", "a\0b"])
def test_what_is_no_command_is_refused(shared_sandbox: Sandbox, command: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        shared_sandbox.exec(command)
    assert refused.value.status_code == 400


@pytest.mark.parametrize("seconds", [0, -1, 1e9])
def test_a_timeout_out_of_range_is_refused(shared_sandbox: Sandbox, seconds: float) -> None:
    with pytest.raises(BadRequestError, match="timeout_seconds"):
        shared_sandbox.exec("true", timeout_seconds=seconds)
