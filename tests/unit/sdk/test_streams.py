"""Commands and logs as they come, from a real server on the loopback: cut chunks, broken streams, odd bytes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

import pytest

import pandastack
from pandastack import AsyncPandaStack, AsyncSandbox, ExecExit, ExecOutput, PandaStack, Sandbox

from .conftest import Answer, LoopbackServer, json_answer

STREAM = "POST /v1/sandboxes/sb/exec/stream"


def _event(name: str, **data: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


def _chunked(*pieces: bytes, complete: bool = True) -> Answer:
    """An answer of exactly these HTTP chunks; an incomplete one breaks off."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.rfile.read(int(request.headers.get("content-length", 0)))
        request.send_response(200)
        request.send_header("content-type", "text/event-stream; charset=utf-8")
        request.send_header("transfer-encoding", "chunked")
        request.end_headers()
        for piece in pieces:
            request.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            request.wfile.flush()
        if complete:
            request.wfile.write(b"0\r\n\r\n")
        else:
            request.close_connection = True

    return answer


@pytest.fixture
def sandbox(loopback: LoopbackServer) -> Sandbox:
    return Sandbox.from_dict({"id": "sb"}, PandaStack(loopback.url, "k"))


def test_output_reaches_its_callbacks(loopback: LoopbackServer, sandbox: Sandbox) -> None:
    loopback.answers[STREAM] = _chunked(
        b": ping\n\n" + _event("stdout", chunk="one\n"),
        _event("stderr", chunk="oh\n") + _event("stdout", chunk="zwei ✓")[:20],
        _event("stdout", chunk="zwei ✓")[20:] + _event("exit", exit_code=7),
    )
    out: list[str] = []
    err: list[str] = []
    assert sandbox.exec_stream("x", out.append, err.append) == 7
    assert ("".join(out), "".join(err)) == ("one\nzwei ✓", "oh\n")


def test_bytes_that_are_no_text_arrive_exactly(loopback: LoopbackServer, sandbox: Sandbox) -> None:
    loopback.answers[STREAM] = _chunked(
        _event("stdout", chunk="\ufffd", base64="/wA="),
        _event("stdout", chunk="\ufffd", base64="w6k="),
        _event("exit", exit_code=0),
    )
    assert list(sandbox.exec_events("x")) == [
        ExecOutput("stdout", b"\xff\x00"),
        ExecOutput("stdout", "é".encode()),
        ExecExit(0),
    ]


def test_a_character_in_two_chunks_is_one_in_text(loopback: LoopbackServer, sandbox: Sandbox) -> None:
    loopback.answers[STREAM] = _chunked(
        _event("stdout", chunk="\ufffd", base64="ww=="),
        _event("stdout", chunk="\ufffd", base64="qQ=="),
        _event("exit", exit_code=0),
    )
    out: list[str] = []
    sandbox.exec_stream("x", out.append)
    assert "".join(out) == "é"


@pytest.mark.parametrize("complete", [True, False])
def test_a_stream_without_exit_is_no_success(
    loopback: LoopbackServer, sandbox: Sandbox, complete: bool
) -> None:
    loopback.answers[STREAM] = _chunked(_event("stdout", chunk="so far"), complete=complete)
    with pytest.raises(pandastack.ExecInterrupted) as caught:
        sandbox.exec_stream("x")
    assert caught.value.partial_stdout == "so far"


@pytest.mark.anyio
@pytest.mark.parametrize("complete", [True, False])
async def test_async_stream_without_exit_is_no_success(loopback: LoopbackServer, complete: bool) -> None:
    loopback.answers[STREAM] = _chunked(_event("stdout", chunk="so far"), complete=complete)
    async with AsyncPandaStack(loopback.url, "k") as client:
        with pytest.raises(pandastack.ExecInterrupted) as caught:
            await AsyncSandbox.from_dict({"id": "sb"}, client).exec_stream("x")
    assert caught.value.partial_stdout == "so far"


@pytest.mark.anyio
async def test_async_callbacks_may_be_coroutines(loopback: LoopbackServer) -> None:
    loopback.answers[STREAM] = _chunked(_event("stdout", chunk="a"), _event("exit", exit_code=0))
    seen: list[str] = []

    async def take(text: str) -> None:
        seen.append(text)

    async with AsyncPandaStack(loopback.url, "k") as client:
        assert await AsyncSandbox.from_dict({"id": "sb"}, client).exec_stream("x", take) == 0
    assert seen == ["a"]


@pytest.mark.parametrize(
    "data", [{"error": "killed", "code": "command_timeout"}, {"error": "timeout after 1s"}]
)
def test_timeout_in_a_stream(loopback: LoopbackServer, sandbox: Sandbox, data: dict[str, str]) -> None:
    loopback.answers[STREAM] = _chunked(_event("error", **data))
    with pytest.raises(pandastack.SandboxTimeout):
        sandbox.exec_stream("x", timeout_seconds=1)


def test_refused_stream(loopback: LoopbackServer, sandbox: Sandbox) -> None:
    loopback.answers[STREAM] = json_answer(409, '{"error": "it is paused", "code": "conflict"}')
    with pytest.raises(pandastack.ConflictError, match="it is paused"):
        sandbox.exec_stream("x")


def test_leaving_early_closes_the_connection(loopback: LoopbackServer, sandbox: Sandbox) -> None:
    closed = threading.Event()

    def endless(request: BaseHTTPRequestHandler) -> None:
        request.rfile.read(int(request.headers["content-length"]))
        request.send_response(200)
        request.send_header("connection", "close")
        request.end_headers()
        request.wfile.write(_event("stdout", chunk="y"))
        request.wfile.flush()
        request.connection.settimeout(20)
        if request.connection.recv(1) == b"":
            closed.set()
        request.close_connection = True

    loopback.answers[STREAM] = endless
    events = sandbox.exec_events("yes")
    next(events)
    events.close()
    assert closed.wait(20)


def test_exec_waits_longer_than_the_client_timeout(loopback: LoopbackServer) -> None:
    def slow(request: BaseHTTPRequestHandler) -> None:
        request.rfile.read(int(request.headers["content-length"]))
        time.sleep(0.6)
        json_answer(200, '{"stdout": "late", "stderr": "", "exit_code": 0}')(request)

    loopback.answers["POST /v1/sandboxes/sb/exec"] = slow
    client = PandaStack(loopback.url, "k", timeout=0.2)
    assert Sandbox.from_dict({"id": "sb"}, client).exec("x", timeout_seconds=5).stdout == "late"
    assert Sandbox.from_dict({"id": "sb"}, client).exec("x").stdout == "late"


def test_other_requests_keep_to_the_client_timeout(loopback: LoopbackServer) -> None:
    release = threading.Event()

    def never(_request: BaseHTTPRequestHandler) -> None:
        release.wait(20)

    loopback.answers["GET /v1/me"] = never
    with pytest.raises(pandastack.RequestTimeout, match="did not answer in time"):
        PandaStack(loopback.url, "k", timeout=0.2).me()
    release.set()


@pytest.mark.parametrize(
    ("follow", "answer"),
    [
        (False, _chunked(b"eins\nzw", "ei é".encode()[:-1], "é".encode()[-1:] + b"\r\ndrei")),
        (
            True,
            _chunked(
                b'data: {"line":"eins"}\n\n: ping\n\n',
                b'data: {"chunk":"zwei \\u00e9"}\n\ndata: {"line":"drei"}\n\n',
            ),
        ),
    ],
)
def test_logs(loopback: LoopbackServer, sandbox: Sandbox, follow: bool, answer: Callable[..., None]) -> None:
    loopback.answers["GET /v1/sandboxes/sb/logs"] = answer
    assert list(sandbox.logs(follow=follow)) == ["eins", "zwei é", "drei"]
