"""GuestClient against guests that behave, misbehave, stall and vanish. Real sockets, scripted bytes."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pytest

from pandastackd.errors import (
    CommandTimeout,
    Conflict,
    GuestUnreachable,
    HostFailure,
    InsufficientStorage,
    InvalidRequest,
    NotFound,
    PlatformError,
    TooLarge,
)
from pandastackd.guest import Command, Ended, Event, GuestClient, Identity, LogLine, Output, Started
from pandastackd.guest.connect_protocol import encode_bytes, encode_frame

pytestmark = pytest.mark.anyio

LAST = b"\x02\x00\x00\x00\x02{}"
START = encode_frame({"event": {"start": {"pid": 42}}})
END = encode_frame({"event": {"end": {"exitCode": 3, "exited": True, "status": "exit status 3"}}})
IDENTITY = Identity("box", "0" * 32, b"r" * 32, {"A": "1"}, "secret")


def out(data: bytes, stream: str = "stdout") -> bytes:
    return encode_frame({"event": {"data": {stream: encode_bytes(data)}}})


async def events_of(client: GuestClient, **more: Any) -> list[Event]:
    return [event async for event in client.start(Command(("true",), **more))]


# ------------------------------------------------------------------ life


async def test_introduce_is_one_request_on_one_connection(scripted: Callable[..., Any]) -> None:
    seen: list[tuple[str, dict[str, Any]]] = []

    async def script(talk: Any) -> None:
        while True:
            first, _, body = await talk.request()
            seen.append((first, json.loads(body) if body else {}))
            await talk.reply(status="204 No Content")

    async with scripted(script) as (client, guest):
        await client.introduce(IDENTITY, deadline_seconds=5)
        await client.ping(deadline_seconds=5)
        assert guest.connections == 1
    assert [first for first, _ in seen] == ["POST /init HTTP/1.1", "GET /health HTTP/1.1"]
    assert seen[0][1]["hostname"] == "box"
    assert seen[0][1]["accessToken"] == "secret"


async def test_an_empty_identity_sets_the_clock_and_nothing_else(scripted: Callable[..., Any]) -> None:
    seen: list[dict[str, Any]] = []

    async def script(talk: Any) -> None:
        seen.append(json.loads((await talk.request())[2]))
        await talk.reply()

    async with scripted(script) as (client, _):
        await client.introduce(Identity(), deadline_seconds=5)
    assert set(seen[0]) == {"timestamp", "resetConnections"}
    assert seen[0]["resetConnections"] is False


async def test_the_head_and_the_small_body_travel_in_one_segment(scripted: Callable[..., Any]) -> None:
    async def script(talk: Any) -> None:
        data = await talk.reader.read(65536)
        assert data.endswith(b"}")
        await talk.reply()

    async with scripted(script) as (client, _):
        await client.introduce(IDENTITY, deadline_seconds=5)


async def test_introduce_outlasts_a_guest_that_is_not_there_yet(scripted: Callable[..., Any]) -> None:
    async def script(talk: Any) -> None:
        await talk.request()
        await talk.reply()

    async with scripted(script) as (_, guest):
        tries = 0

        async def connect(port: int) -> socket.socket:
            nonlocal tries
            tries += 1
            if tries < 4:
                raise ConnectionRefusedError("not yet")
            sock: socket.socket = await guest.connect(port)
            return sock

        async with GuestClient(connect) as client:
            await client.introduce(IDENTITY, deadline_seconds=10)
        assert tries >= 4


async def test_a_lost_first_syn_costs_a_fraction_of_a_second(scripted: Callable[..., Any]) -> None:
    async def script(talk: Any) -> None:
        await talk.request()
        await talk.reply()

    async with scripted(script) as (_, guest):
        cancelled = asyncio.Event()
        tries = 0

        async def connect(port: int) -> socket.socket:
            nonlocal tries
            tries += 1
            if tries == 1:
                try:
                    await asyncio.sleep(60)
                finally:
                    cancelled.set()
            sock: socket.socket = await guest.connect(port)
            return sock

        async with GuestClient(connect) as client:
            await client.ping(deadline_seconds=20)
        await asyncio.wait_for(cancelled.wait(), 5)
        assert tries == 2


async def test_a_guest_that_never_answers_is_unreachable() -> None:
    async def connect(port: int) -> socket.socket:
        raise OSError("no route")

    async with GuestClient(connect) as client:
        with pytest.raises(GuestUnreachable, match=r"within 0\.2 s"):
            await client.introduce(IDENTITY, deadline_seconds=0.2)


async def test_a_guest_that_refuses_its_identity_is_not_retried(scripted: Callable[..., Any]) -> None:
    async def script(talk: Any) -> None:
        await talk.request()
        await talk.reply(
            b'{"code":"invalid_argument","message":"hostname is too long"}', status="400 Bad Request"
        )

    async with scripted(script) as (client, guest):
        with pytest.raises(InvalidRequest, match="hostname is too long"):
            await client.introduce(IDENTITY, deadline_seconds=5)
        assert guest.connections == 1


# ------------------------------------------------------------- processes


async def test_a_command_streams_its_events_in_order(scripted: Callable[..., Any]) -> None:
    requests: list[tuple[dict[str, str], bytes]] = []

    async def script(talk: Any) -> None:
        _, headers, body = await talk.request()
        requests.append((headers, body))
        keepalive = encode_frame({"event": {"keepalive": {}}})
        later = encode_frame({"event": {"notYetInvented": {"x": 1}}})
        await talk.stream(
            START, out(b"h\xc3")[:7], out(b"h\xc3")[7:], keepalive, later, out(b"\xa9", "stderr"), END, LAST
        )

    async with scripted(script) as (client, _):
        events = await events_of(client, user="root", cwd="/tmp", timeout_seconds=7)
    assert events == [Started(42), Output("stdout", b"h\xc3"), Output("stderr", b"\xa9"), Ended(3)]
    headers, body = requests[0]
    assert headers["connect-timeout-ms"] == "7000"
    assert headers["authorization"] == "Basic cm9vdDo="
    assert json.loads(body[5:])["process"] == {"cmd": "true", "args": [], "envs": {}, "cwd": "/tmp"}


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ({"exitCode": 3, "exited": True, "status": "exit status 3", "error": "exit status 3"}, Ended(3)),
        ({"status": "exit status 0", "exited": True}, Ended(0)),
        ({"exitCode": -1, "status": "signal: killed", "error": "signal: killed"}, Ended(137, "SIGKILL")),
        ({"exitCode": -1, "status": "signal: segmentation fault (core dumped)"}, Ended(139, "SIGSEGV")),
        ({"exitCode": -1, "status": "signal: signal 33"}, Ended(161)),
        ({"exitCode": -1, "error": "exec format error"}, Ended(-1, error="exec format error")),
    ],
)
async def test_how_a_process_ended_is_told_in_shell_terms(
    scripted: Callable[..., Any], end: dict[str, Any], expected: Ended
) -> None:
    async def script(talk: Any) -> None:
        await talk.request()
        await talk.stream(START, encode_frame({"event": {"end": end}}), LAST)

    async with scripted(script) as (client, _):
        assert (await events_of(client))[-1] == expected


@pytest.mark.parametrize(
    "pieces",
    [
        (b"\x00\xff\xff\xff\xff",),
        (START, b"\x00\x00\x00"),
        (START,),
        (START, END[:-1]),
        (out(b"x"), END, LAST),
        (START, START),
        (START, LAST),
        (encode_frame({"event": []}),),
        (encode_frame({"event": {"start": {"pid": "../../etc"}}}),),
        (encode_frame({"event": {"start": {"pid": 2**40}}}),),
        (START, encode_frame({"event": {"data": {"stdout": 5}}})),
        (START, encode_frame({"event": {"end": {"exitCode": 10**6}}})),
        (START, encode_frame({"event": {"end": {"exitCode": -1, "status": "signal: rm -rf"}}})),
        (START, encode_frame({"event": {"end": {"exitCode": -1, "status": "signal: signal 99"}}})),
        (b"\x01\x00\x00\x00\x02{}",),
        (b"\x00\x00\x00\x00\x04" + b"[[[[",),
    ],
)
async def test_a_hostile_stream_is_one_clear_error(
    scripted: Callable[..., Any], pieces: tuple[bytes, ...]
) -> None:
    async def script(talk: Any) -> None:
        await talk.request()
        await talk.stream(*pieces)

    async with scripted(script) as (client, _):
        with pytest.raises(HostFailure) as caught:
            await events_of(client)
        assert caught.value.code == "guest_protocol"


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"a" * 300_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x00" * 200_000,
    ],
)
async def test_what_is_not_http_is_one_clear_error(scripted: Callable[..., Any], raw: bytes) -> None:
    async def script(talk: Any) -> None:
        await talk.request()
        await talk.send(raw)
        await talk.reader.read()

    async with scripted(script) as (client, _):
        with pytest.raises(HostFailure):
            await client.processes()


async def test_a_reply_without_end_is_cut_off(scripted: Callable[..., Any]) -> None:
    async def script(talk: Any) -> None:
        await talk.request()
        await talk.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await talk.send(b"10000\r\n" + b" " * 65536 + b"\r\n")

    async with scripted(script) as (client, guest):
        with pytest.raises(TooLarge):
            await client.processes()
        await asyncio.wait_for(guest.gone.wait(), 5)


@pytest.mark.parametrize("cut", [0, 10, 60])
async def test_a_connection_that_breaks_is_unreachable(scripted: Callable[..., Any], cut: int) -> None:
    async def script(talk: Any) -> None:
        await talk.request()
        await talk.send((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"ff\r\n" + START)[:cut])

    async with scripted(script) as (client, _):
        with pytest.raises(GuestUnreachable):
            await events_of(client)


async def test_a_silent_guest_is_unreachable(scripted: Callable[..., Any]) -> None:
    async def script(talk: Any) -> None:
        await talk.request()
        await talk.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await talk.reader.read()

    async with scripted(script, silence_seconds=0.2) as (client, guest):
        with pytest.raises(GuestUnreachable):
            await events_of(client)
        await asyncio.wait_for(guest.gone.wait(), 5)


async def test_a_timeout_the_guest_reports(scripted: Callable[..., Any]) -> None:
    error = b'{"error":{"code":"deadline_exceeded","message":"killed"}}'

    async def script(talk: Any) -> None:
        await talk.request()
        await talk.stream(START, b"\x02" + len(error).to_bytes(4, "big") + error)

    async with scripted(script) as (client, _):
        with pytest.raises(CommandTimeout, match="deadline exceeded after 2 s"):
            await events_of(client, timeout_seconds=2)


async def test_a_timeout_the_guest_ignores(
    scripted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pandastackd.guest.client.TIMEOUT_GRACE_SECONDS", 0.1)

    async def script(talk: Any) -> None:
        await talk.request()
        await talk.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await talk.send(b"%x\r\n%s\r\n" % (len(START), START) if not talk.reader.at_eof() else b"")
            break
        await talk.reader.read()

    async with scripted(script) as (client, guest):
        with pytest.raises(CommandTimeout):
            await events_of(client, timeout_seconds=0.1)
        await asyncio.wait_for(guest.gone.wait(), 5)


async def test_leaving_a_stream_closes_its_connection(scripted: Callable[..., Any]) -> None:
    async def script(talk: Any) -> None:
        await talk.request()
        await talk.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await talk.send(b"%x\r\n%s\r\n" % (len(START), START))
        await talk.reader.read()

    async with scripted(script) as (client, guest):
        async with aclosing(client.start(Command(("yes",)))) as events:
            assert await anext(events) == Started(42)
        await asyncio.wait_for(guest.gone.wait(), 5)


async def test_run_collects_up_to_its_limit(scripted: Callable[..., Any]) -> None:
    async def script(talk: Any) -> None:
        await talk.request()
        await talk.stream(START, *(out(b"y" * 1000) for _ in range(50)), out(b"e", "stderr"), END, LAST)

    async with scripted(script) as (client, _):
        result = await client.run(Command(("yes",)), output_limit=1500)
    assert (len(result.stdout), result.stderr, result.exit_code, result.truncated) == (1500, b"e", 3, True)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("404 Not Found", "not_found", NotFound),
        ("409 Conflict", "already_exists", Conflict),
        ("400 Bad Request", "invalid_argument", InvalidRequest),
        ("507 Insufficient Storage", "internal", InsufficientStorage),
        ("503 Service Unavailable", "unavailable", GuestUnreachable),
        ("500 Internal Server Error", "???", HostFailure),
    ],
)
async def test_refusals_are_typed(
    scripted: Callable[..., Any], status: str, code: str, expected: type[PlatformError]
) -> None:
    async def script(talk: Any) -> None:
        await talk.request()
        await talk.reply(json.dumps({"code": code, "message": "because"}).encode(), status=status)

    async with scripted(script) as (client, _):
        with pytest.raises(expected, match="because") as caught:
            await client.stat("/x")
        assert type(caught.value) is expected


# ----------------------------------------------------------------- files


async def test_an_upload_is_streamed_and_counted(scripted: Callable[..., Any]) -> None:
    received: list[tuple[str, bytes]] = []

    async def script(talk: Any) -> None:
        first, headers, body = await talk.request()
        assert headers["content-type"] == "application/octet-stream"
        received.append((first, body))
        await talk.reply(b'[{"path":"/home/user/\xc3\xa9 x","name":"\xc3\xa9 x","type":"file"}]')

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"z" * 70_000

    async with scripted(script) as (client, _):
        info = await client.write("/home/user/é x", chunks(), user="bob")
    assert info.size == 2_800_000
    assert not info.is_dir
    assert received[0][0].split()[1] == "/files?path=%2Fhome%2Fuser%2F%C3%A9+x&username=bob"
    assert received[0][1] == b"z" * 2_800_000


async def test_the_callers_own_failure_stays_its_own(scripted: Callable[..., Any]) -> None:
    async def script(talk: Any) -> None:
        await talk.request()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"z" * 70_000
        raise OSError("the caller's disk")

    async with scripted(script) as (client, guest):
        with pytest.raises(OSError, match="the caller's disk"):
            await client.write("/x", chunks())
        await asyncio.wait_for(guest.gone.wait(), 5)


async def test_a_download_says_its_size_and_streams(scripted: Callable[..., Any]) -> None:
    async def script(talk: Any) -> None:
        await talk.request()
        await talk.reply(b"\x00\xff" * 500_000)

    async with scripted(script) as (client, _), client.read("/x") as reader:
        assert reader.size == 1_000_000
        assert b"".join([chunk async for chunk in reader.chunks]) == b"\x00\xff" * 500_000


async def test_a_download_cut_short_is_an_error_not_a_short_file(scripted: Callable[..., Any]) -> None:
    async def script(talk: Any) -> None:
        await talk.request()
        await talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 50)

    async with scripted(script) as (client, _), client.read("/x") as reader:
        with pytest.raises(GuestUnreachable):
            _ = [chunk async for chunk in reader.chunks]


async def test_entries_are_read_strictly(scripted: Callable[..., Any]) -> None:
    entry = {
        "name": "f",
        "path": "/f",
        "type": "FILE_TYPE_FILE",
        "size": "12",
        "mode": 33188,
        "modifiedTime": "2026-01-02T03:04:05.123456789Z",
    }

    async def script(talk: Any) -> None:
        await talk.request()
        await talk.reply(json.dumps({"entry": entry}).encode())
        await talk.request()
        await talk.reply(json.dumps({"entries": [entry, "../../etc/shadow"]}).encode())

    async with scripted(script) as (client, _):
        info = await client.stat("/f")
        assert (info.size, info.mode, info.is_dir) == (12, 0o644, False)
        assert info.mtime == pytest.approx(1767323045.123456)
        with pytest.raises(HostFailure):
            await client.list_dir("/")


# ------------------------------------------------------- logs and tunnels


async def test_log_lines_survive_any_cutting(scripted: Callable[..., Any]) -> None:
    lines = b"".join(
        json.dumps({"stream": stream, "line": line}).encode() + b"\n"
        for stream, line in [("stdout", "a"), ("keepalive", ""), ("stderr", "\x85b")]
    )

    async def script(talk: Any) -> None:
        await talk.request()
        await talk.stream(*(lines[i : i + 7] for i in range(0, len(lines), 7)))

    async with scripted(script) as (client, _):
        seen = [line async for line in client.logs()]
    assert seen == [LogLine("stdout", "a"), LogLine("stderr", "\x85b")]


async def test_a_tunnel_loses_no_byte_that_came_with_the_answer(scripted: Callable[..., Any]) -> None:
    async def script(talk: Any) -> None:
        await talk.request()
        await talk.send(b"HTTP/1.1 101 Switching Proto")
        await asyncio.sleep(0.05)
        await talk.send(b"cols\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r")
        await asyncio.sleep(0.05)
        await talk.send(b"\nhello, I speak first")
        await talk.send((await talk.reader.readexactly(4)).upper())

    async with scripted(script) as (client, _):
        sock = await client.tunnel(5432)
        try:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, b"ping")
            data = b""
            while chunk := await loop.sock_recv(sock, 100):
                data += chunk
        finally:
            sock.close()
    assert data == b"hello, I speak firstPING"


async def test_a_tunnel_to_nobody_is_not_found(scripted: Callable[..., Any]) -> None:
    async def script(talk: Any) -> None:
        await talk.request()
        await talk.reply(b"port is not open", status="502 Bad Gateway")

    async with scripted(script) as (client, _):
        with pytest.raises(NotFound, match="5432"):
            await client.tunnel(5432)
