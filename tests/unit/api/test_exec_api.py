"""Commands over HTTP: results, streams to the byte, limits, and callers that go away. Needs bash."""

from __future__ import annotations

import asyncio
import base64
import json

import httpx
import pytest

from pandastackd.api import spool
from pandastackd.api.streaming import Streamed
from pandastackd.errors import HostFailure
from pandastackd.guest.types import Ended, LogLine, Output, Started
from tests.unit.fakes import FakeAgent, FakeGuest, eventually, flat_memory, is_alive

pytestmark = pytest.mark.anyio

Box = tuple[str, FakeGuest]


@pytest.fixture
async def box(http: httpx.AsyncClient, agent: FakeAgent) -> Box:
    """A sandbox's URL and its guest."""
    made = await http.post("/v1/sandboxes", json={"template": "base"})
    sandbox_id = made.json()["id"]
    return f"/v1/sandboxes/{sandbox_id}", agent.guests[sandbox_id]


async def test_exec(http: httpx.AsyncClient, box: Box) -> None:
    response = await http.post(f"{box[0]}/exec", json={"cmd": "echo ünï; echo err >&2; exit 3"})
    assert response.status_code == 200
    result = response.json()
    assert (result["stdout"], result["stderr"], result["exit_code"]) == ("ünï\n", "err\n", 3)
    assert isinstance(result["duration_ms"], int)
    assert set(result) == {"stdout", "stderr", "exit_code", "duration_ms"}


async def test_stdin_is_empty(http: httpx.AsyncClient, box: Box) -> None:
    assert (await http.post(f"{box[0]}/exec", json={"cmd": "cat; echo end"})).json()["stdout"] == "end\n"


async def test_a_command_is_given_a_folder_an_environment_a_user_and_input(
    http: httpx.AsyncClient, box: Box
) -> None:
    (box[1].home / "work").mkdir()
    body = {
        "cmd": 'basename "$PWD"; printf %s "$A"; tr a-z A-Z; echo err >&2',
        "cwd": "/work",
        "env": {"A": "ü $B\n"},
        "user": "root",
        "stdin": "input\n",
    }
    result = (await http.post(f"{box[0]}/exec", json=body)).json()
    assert result["stdout"] == "work\nü $B\nINPUT\n"
    streamed = (await http.post(f"{box[0]}/exec/stream", json=body)).text
    assert "INPUT" in streamed
    assert streamed.endswith('data: {"exit_code": 0}\n\n')


async def test_input_that_nobody_reads_and_output_before_the_input_is_read(
    http: httpx.AsyncClient, box: Box
) -> None:
    much = {"stdin": "x" * 900_000}
    unread = await http.post(f"{box[0]}/exec", json={"cmd": "exec <&-; exit 3", **much})
    assert unread.json()["exit_code"] == 3
    first = "head -c 900000 /dev/zero | tr '\\0' y; wc -c"
    assert (await http.post(f"{box[0]}/exec", json={"cmd": first, **much})).json()["stdout"] == (
        "y" * 900_000 + "900000\n"
    )
    late = await http.post(f"{box[0]}/exec", json={"cmd": "sleep 60", "timeout_seconds": 0.2, **much})
    assert late.status_code == 504


async def test_a_guest_that_takes_no_input_ends_the_command(
    http: httpx.AsyncClient, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(*_: object, **__: object) -> None:
        raise HostFailure("the guest is gone")

    monkeypatch.setattr(box[1], "send_input", lost)
    response = await http.post(f"{box[0]}/exec", json={"cmd": "cat", "stdin": "x"})
    assert response.status_code == 500
    assert "the guest is gone" in response.json()["error"]


async def test_bytes_that_are_no_text_do_no_harm(http: httpx.AsyncClient, box: Box) -> None:
    response = await http.post(f"{box[0]}/exec", json={"cmd": r"printf 'a\xff\x00\r\nz'"})
    assert response.json()["stdout"] == "a\ufffd\0\r\nz"


@pytest.mark.parametrize("in_memory", [0, 1 << 20])
async def test_large_output_is_the_same_from_memory_and_from_disk(
    http: httpx.AsyncClient, box: Box, in_memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Three-byte characters: every border of a power of two cuts one.
    monkeypatch.setattr(
        spool.Spool.__init__, "__kwdefaults__", {"in_memory": in_memory, "limit": spool.LIMIT}
    )
    command = "for i in $(seq 30000); do echo '€\"\\€'; done; echo E >&2"
    result = (await http.post(f"{box[0]}/exec", json={"cmd": command})).json()
    assert result["stdout"] == '€"\\€\n' * 30000
    assert result["stderr"] == "E\n"


async def test_too_much_output_kills_the_command(
    http: httpx.AsyncClient, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool.Spool.__init__, "__kwdefaults__", {"in_memory": 1000, "limit": 100_000})
    response = await http.post(f"{box[0]}/exec", json={"cmd": "yes"})
    assert response.status_code == 413
    await eventually(lambda: bool(box[1].killed), "the command is killed")
    await eventually(lambda: not is_alive(box[1].killed[0]), "the command is dead")


async def test_a_command_that_takes_too_long(http: httpx.AsyncClient, box: Box) -> None:
    response = await http.post(f"{box[0]}/exec", json={"cmd": "sleep 60", "timeout_seconds": 0.2})
    assert response.status_code == 504
    message = response.json()["error"]
    assert message.startswith("command timed out after 0.2s: deadline exceeded")
    assert "all its children were killed" in message
    # What published clients take for a guest that is still booting, and retry:
    assert "i/o timeout" not in message


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"cmd": ""},
        {"cmd": "  "},
        {"cmd": 7},
        {"cmd": "a\0b"},
        {"cmd": "true", "timeout_seconds": 0},
        {"cmd": "true", "timeout_seconds": -1},
        {"cmd": "true", "timeout_seconds": 86401},
        {"cmd": "true", "timeout_seconds": "5"},
        {"cmd": "true", "cwd": ""},
        {"cmd": "true", "cwd": "/a\0b"},
        {"cmd": "true", "cwd": "/nowhere"},
        {"cmd": "true", "env": {"A=B": "x"}},
        {"cmd": "true", "env": {"A": 1}},
        {"cmd": "true", "user": ""},
        {"cmd": "true", "user": "a:b"},
        {"cmd": "true", "user": "nobody-here"},
        {"cmd": "true", "stdin": 7},
        {"cmd": "true", "background": True},
    ],
)
@pytest.mark.parametrize("route", ["exec", "exec/stream"])
async def test_bad_commands_are_refused(
    http: httpx.AsyncClient, box: Box, body: dict[str, object], route: str
) -> None:
    response = await http.post(f"{box[0]}/{route}", json=body)
    assert response.status_code == 400, response.text
    assert isinstance(response.json()["error"], str)


async def test_a_stream_to_the_byte(http: httpx.AsyncClient, box: Box) -> None:
    box[1].script = [
        Started(1),
        Output("stdout", b"a\xe2\x82"),
        Output("stdout", b"\xac\r\n\xe2\x80\xa8"),
        Output("stderr", b"e\n"),
        Ended(7),
    ]
    response = await http.post(f"{box[0]}/exec/stream", json={"cmd": "x"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.content == (
        b": open\n\n"
        b'event: stdout\ndata: {"chunk": "a"}\n\n'
        b'event: stdout\ndata: {"chunk": "\\u20ac\\r\\n\\u2028"}\n\n'
        b'event: stderr\ndata: {"chunk": "e\\n"}\n\n'
        b'event: exit\ndata: {"exit_code": 7}\n\n'
    )
    assert b"\r" not in response.content


async def test_a_streamed_timeout_says_so(http: httpx.AsyncClient, box: Box) -> None:
    response = await http.post(f"{box[0]}/exec/stream", json={"cmd": "sleep 60", "timeout_seconds": 0.2})
    last = response.text.rstrip("\n").split("\n\n")[-1].split("\n")
    assert last[0] == "event: error"
    assert "timeout" in json.loads(last[1].removeprefix("data: "))["error"]


async def test_a_character_cut_by_the_end_is_shown_as_cut(http: httpx.AsyncClient, box: Box) -> None:
    response = await http.post(f"{box[0]}/exec/stream", json={"cmd": r"printf '\xe2\x82'"})
    assert b'data: {"chunk": "\\ufffd", "base64": "4oI="}' in response.content


async def test_bytes_that_are_no_text_are_streamed_exactly(http: httpx.AsyncClient, box: Box) -> None:
    raw = b"ok \xe2\x82\xac \xff\xfe\x00 \xef\xbf\xbd \xe2"
    box[1].script = [
        Started(1),
        *(Output("stdout", bytes([byte])) for byte in raw),
        Output("stdout", raw),
        Ended(0),
    ]
    response = await http.post(f"{box[0]}/exec/stream", json={"cmd": "x"})
    seen = b""
    for line in response.text.split("\n"):
        if line.startswith('data: {"chunk"'):
            chunk = json.loads(line.removeprefix("data: "))
            seen += base64.b64decode(chunk["base64"]) if "base64" in chunk else chunk["chunk"].encode()
    assert seen == raw * 2


async def test_a_caller_that_leaves_takes_its_command_along(live: httpx.AsyncClient, box: Box) -> None:
    url, guest = box
    for route in ("exec", "exec/stream"):
        call = asyncio.create_task(live.post(f"{url}/{route}", json={"cmd": "sleep 60; echo late"}))
        await eventually(lambda: bool(guest.running), "the command runs")
        pid = next(iter(guest.running))
        call.cancel()
        await eventually(lambda pid=pid: not is_alive(pid), "the command is killed")  # type: ignore[misc]
        await eventually(lambda: not guest.running, "the command is forgotten")


async def test_a_reader_that_stops_stops_the_command_and_memory_stays_flat(
    live: httpx.AsyncClient, box: Box
) -> None:
    with flat_memory(48):
        async with live.stream("POST", f"{box[0]}/exec/stream", json={"cmd": "yes"}) as response:
            seen = 0
            async for chunk in response.aiter_raw():
                seen += len(chunk)
                if seen > 20_000_000:
                    break
            # Nothing reads now; an unbounded queue would take in many megabytes a second.
            await asyncio.sleep(1)
        await eventually(lambda: bool(box[1].killed), "the command is killed")


async def test_100_mb_of_output_in_one_answer_do_not_fill_memory(live: httpx.AsyncClient, box: Box) -> None:
    size = 100_000_000
    seen, last = 0, b""
    with flat_memory(48):
        body = {"cmd": f"yes | head -c {size}"}
        async with live.stream("POST", f"{box[0]}/exec", json=body) as response:
            assert response.status_code == 200
            async for chunk in response.aiter_raw():
                seen += len(chunk)
                last = (last + chunk)[-200:]
    # A newline is two characters in JSON.
    assert size * 1.5 < seen < size * 1.5 + 200
    assert b'"exit_code":0' in last


async def test_keep_alive_comments_while_nothing_is_printed(
    live: httpx.AsyncClient, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = Streamed.__init__.__kwdefaults__ or {}
    monkeypatch.setitem(defaults, "ping_seconds", 0.05)
    response = await live.post(f"{box[0]}/exec/stream", json={"cmd": "sleep 0.5; echo x"})
    assert response.content.count(b": ping\n\n") >= 3
    assert response.content.endswith(b'event: exit\ndata: {"exit_code": 0}\n\n')


async def test_logs(http: httpx.AsyncClient, live: httpx.AsyncClient, box: Box) -> None:
    url, guest = box
    text = await http.get(f"{url}/logs", params={"stream": "both", "follow": "false"})
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    assert text.text == "hello\nünïcode\n"
    assert (await http.get(f"{url}/logs?stream=stderr&follow=0")).text == "ünïcode\n"
    assert (await http.get(f"{url}/logs?stream=nope")).status_code == 400
    guest.lines.clear()
    assert (await http.get(f"{url}/logs")).text == ""
    guest.lines.append(LogLine("stdout", "again \u2028"))
    async with live.stream("GET", f"{url}/logs?follow=1") as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        lines = response.aiter_lines()
        first = [await anext(lines) for _ in range(3)]
    assert first == [": open", "", 'data: {"line": "again \\u2028", "stream": "stdout"}']
