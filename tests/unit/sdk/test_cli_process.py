"""The installed command as a process: its streams, its status, its signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from .conftest import LoopbackServer

PANDASTACK = str(Path(sys.executable).with_name("pandastack"))
STREAM = "POST /v1/sandboxes/sb/exec/stream"


@pytest.fixture
def environment(loopback: LoopbackServer, home: Path) -> dict[str, str]:
    return {**os.environ, "HOME": str(home), "PANDASTACK_API": loopback.url, "PANDASTACK_API_KEY": "k"}


def _begin(request: BaseHTTPRequestHandler) -> None:
    request.rfile.read(int(request.headers["content-length"]))
    request.send_response(200)
    request.send_header("connection", "close")
    request.end_headers()


def _send(request: BaseHTTPRequestHandler, name: str, **data: object) -> None:
    request.wfile.write(f"event: {name}\ndata: {json.dumps(data)}\n\n".encode())
    request.wfile.flush()


def test_streams_and_status(loopback: LoopbackServer, environment: dict[str, str]) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        _begin(request)
        _send(request, "stdout", chunk="a\r\nb✓")
        _send(request, "stderr", chunk="?", base64="/w==")
        _send(request, "exit", exit_code=3)
        request.close_connection = True

    loopback.answers[STREAM] = answer
    done = subprocess.run(
        [PANDASTACK, "sandbox", "exec", "sb", "x"], env=environment, capture_output=True, timeout=60
    )
    assert (done.stdout, done.stderr, done.returncode) == ("a\r\nb✓".encode(), b"\xff", 3)


def test_output_is_live_and_an_interrupt_hangs_up(
    loopback: LoopbackServer, environment: dict[str, str]
) -> None:
    hung_up = threading.Event()

    def answer(request: BaseHTTPRequestHandler) -> None:
        _begin(request)
        _send(request, "stdout", chunk="first\n")
        request.connection.settimeout(30)
        if request.connection.recv(1) == b"":
            hung_up.set()
        request.close_connection = True

    loopback.answers[STREAM] = answer
    process = subprocess.Popen(
        [PANDASTACK, "sandbox", "exec", "sb", "x"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"first\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in errors
    assert hung_up.wait(30)


def test_a_reader_that_leaves_is_no_traceback(loopback: LoopbackServer, environment: dict[str, str]) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        _begin(request)
        try:
            while True:
                _send(request, "stdout", chunk="y" * 65536)
        except OSError:
            request.close_connection = True

    loopback.answers[STREAM] = answer
    process = subprocess.Popen(
        [PANDASTACK, "sandbox", "exec", "sb", "yes"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(30) != 0
    process.stderr.close()
    assert b"Traceback" not in errors


def test_no_server(environment: dict[str, str]) -> None:
    environment["PANDASTACK_API"] = "http://127.0.0.1:9"
    done = subprocess.run(
        [PANDASTACK, "sandbox", "list"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot reach http://127.0.0.1:9")
    assert done.stderr.count("\n") == 1


def test_version_imports_nothing_heavy(environment: dict[str, str]) -> None:
    code = (
        "import sys; sys.argv = ['pandastack', '--version']\n"
        "from pandastack.cli import main; main()\n"
        "print(sorted({'httpx', 'typer', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[0].startswith("pandastack 0.")
    assert done.stdout.splitlines()[1] == "[]"
