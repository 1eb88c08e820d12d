"""Traffic through the gateway, against servers on loopback that stand for ports of a guest. Needs nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from pandastackd.control import Control, CreateRequest, Network, Principal
from tests.unit.fakes import TurnableClock, flat_memory
from tests.unit.gateway.conftest import Front

pytestmark = pytest.mark.anyio

CRLF = b"\r\n\r\n"


async def read_head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(CRLF)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers every request of a connection with what it was: head and body as JSON."""
    while True:
        try:
            head = (await read_head(reader)).decode("latin-1")
        except asyncio.IncompleteReadError:
            writer.close()
            return
        headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        body = b""
        if "content-length" in headers:
            body = await reader.readexactly(int(headers["content-length"]))
        elif "transfer-encoding" in headers:
            while size := int(await reader.readline(), 16):
                body += await reader.readexactly(size)
                await reader.readline()
            await reader.readline()
        content = json.dumps({"line": head.split("\r\n")[0], "headers": headers, "body": body.decode()})
        writer.write(
            f"HTTP/1.1 200 OK\r\nX-Own: 1\r\nContent-Length: {len(content)}\r\n\r\n{content}".encode()
        )


def answering(answer: bytes) -> object:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(answer)
        await writer.drain()
        writer.close()

    return handler


async def test_a_request_goes_through_as_it_is(front: Front) -> None:
    await front.listen(3000, echo)
    answer = await front.http.post(
        "/a%2Fb/c?x=%20&y",
        content=b"hello",
        headers={**front.headers(3000), "X-Some": "thing", "TE": "trailers"},
    )
    assert answer.status_code == 200
    assert answer.headers["x-own"] == "1"
    assert "x-request-id" not in answer.headers, "what a sandbox answers is its own"
    seen = answer.json()
    assert seen["line"] == "POST /a%2Fb/c?x=%20&y HTTP/1.1"
    assert seen["body"] == "hello"
    assert seen["headers"]["x-some"] == "thing"
    assert seen["headers"]["host"] == f"127.0.0.1:{front.port}"
    assert not seen["headers"].keys() & {"te", "connection", "e2b-sandbox-id", "e2b-sandbox-port"}


async def test_the_host_name_chooses_the_sandbox(front: Front) -> None:
    await front.listen(3000, echo)
    host = f"3000-{front.sandbox_id}.sandboxes.example:8080"
    answer = await front.http.get("/", headers={"Host": host})
    assert answer.json()["headers"]["host"] == host
    assert (await front.http.get("/healthz")).json() == {"status": "ok"}


async def test_a_call_of_the_api_that_names_its_sandbox_by_headers_is_still_one(
    front: Front, tmp_path: Path
) -> None:
    path = f"/sandboxes/{front.sandbox_id}/connect"
    named = front.headers(49983)
    asked = {**named, "X-API-Key": (tmp_path / "admin.key").read_text().strip()}
    assert (await front.http.post(path, json={}, headers=asked)).json()["sandboxID"] == front.sandbox_id
    assert (await front.http.post(path, json={}, headers=named)).status_code == 401
    await front.listen(3000, echo)
    line = f"POST {path} HTTP/1.1"
    assert (await front.http.post(path, headers=front.headers(3000))).json()["line"] == line, "an app's own"


async def test_chunked_bodies_both_ways(front: Front) -> None:
    await front.listen(3000, echo)

    async def pieces() -> object:
        for _ in range(3):
            yield b"ab"
            await asyncio.sleep(0.01)

    answer = await front.http.post("/", content=pieces(), headers=front.headers(3000))  # type: ignore[arg-type]
    assert answer.json()["body"] == "ababab"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    await front.listen(3001, answering(chunked))  # type: ignore[arg-type]
    assert (await front.http.get("/", headers=front.headers(3001))).text == "abcde"
    await front.listen(3002, answering(b"HTTP/1.0 200 OK\r\n\r\nuntil the end"))  # type: ignore[arg-type]
    assert (await front.http.get("/", headers=front.headers(3002))).text == "until the end"


@pytest.mark.parametrize(
    ("answer", "method"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", "GET"),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n", "GET"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", "HEAD"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "POST"),
    ],
)
async def test_answers_without_a_body(front: Front, answer: bytes, method: str) -> None:
    await front.listen(3000, answering(answer))  # type: ignore[arg-type]
    got = await front.http.request(method, "/", headers=front.headers(3000))
    assert str(got.status_code) in answer.decode()
    assert got.content == b""


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_an_answer_that_is_not_http_is_a_502(front: Front, answer: bytes) -> None:
    await front.listen(3000, answering(answer))  # type: ignore[arg-type]
    got = await front.http.get("/", headers=front.headers(3000))
    assert got.status_code == 502
    assert "no proper answer" in got.json()["message"]


async def test_an_answer_that_breaks_off_breaks_off(front: Front) -> None:
    await front.listen(3000, answering(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"))  # type: ignore[arg-type]
    with pytest.raises(httpx.RemoteProtocolError):
        await front.http.get("/", headers=front.headers(3000))


async def test_unreachable_targets_in_the_words_that_clients_know(
    front: Front, control: Control, admin: Principal
) -> None:
    closed = await front.http.get("/", headers=front.headers(9))
    assert (closed.status_code, "port is not open" in closed.text) == (502, True)
    for unknown in ("x" * 20, "nope"):
        gone = await front.http.get("/", headers={"E2b-Sandbox-Id": unknown, "E2b-Sandbox-Port": "1"})
        assert (gone.status_code, "was not found" in gone.text) == (502, True)
    await control.sandboxes.pause(admin, front.sandbox_id)
    paused = await front.http.get("/", headers=front.headers(3000))
    assert (paused.status_code, "was not found" in paused.text) == (502, True)


@pytest.mark.parametrize(
    "headers",
    [
        {"E2b-Sandbox-Id": "abc"},
        {"E2b-Sandbox-Port": "3000"},
        {"E2b-Sandbox-Id": "../x", "E2b-Sandbox-Port": "3000"},
        {"E2b-Sandbox-Id": "abc", "E2b-Sandbox-Port": "0"},
        {"E2b-Sandbox-Id": "abc", "E2b-Sandbox-Port": "70000"},
    ],
)
async def test_half_an_address_is_refused_and_never_the_platforms(
    front: Front, headers: dict[str, str]
) -> None:
    assert (await front.http.get("/healthz", headers=headers)).status_code == 400


async def test_a_client_that_goes_away_ends_the_guests_work(front: Front) -> None:
    ended = asyncio.Event()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await reader.read()
        ended.set()

    await front.listen(3000, endless)
    async with front.http.stream("GET", "/", headers=front.headers(3000)) as answer:
        async for piece in answer.aiter_bytes():
            assert piece == b"abc"
            break
    await asyncio.wait_for(ended.wait(), 5)


async def test_large_bodies_in_flat_memory(front: Front) -> None:
    size = 200 * 1024 * 1024
    piece = bytes(256 * 1024)
    received = 0

    async def sink_and_source(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        await read_head(reader)
        while received < size:
            received += len(await reader.read(256 * 1024))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // len(piece)):
            writer.write(piece)
            await writer.drain()
        writer.close()

    async def upload() -> object:
        for _ in range(size // len(piece)):
            yield piece

    await front.listen(3000, sink_and_source)
    taken = 0
    with flat_memory(64):
        headers = {**front.headers(3000), "Content-Length": str(size)}
        async with front.http.stream("POST", "/", content=upload(), headers=headers) as answer:  # type: ignore[arg-type]
            async for data in answer.aiter_bytes():
                taken += len(data)
    assert (received, taken) == (size, size)


async def test_a_slow_client_slows_the_guest_down(front: Front) -> None:
    sent = 0

    async def fast(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(bytes(65536))
                await writer.drain()
                sent += 65536

    await front.listen(3000, fast)
    address = front.headers(3000)
    lines = "".join(f"{name}: {value}\r\n" for name, value in address.items())
    reader, writer = await front.raw(f"GET / HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
    await read_head(reader)
    await asyncio.sleep(1)
    before = sent
    await asyncio.sleep(0.5)
    assert sent == before, "nobody reads, so nothing more may come"
    assert sent < 32 * 1024 * 1024
    writer.close()


async def test_connections_to_the_agent_are_kept_and_others_are_not(front: Front) -> None:
    for port, expected in ((49983, 1), (3000, 3)):
        connections = 0

        async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            await echo(reader, writer)

        await front.listen(port, counted)
        for _ in range(3):
            assert (await front.http.post("/", content=b"x", headers=front.headers(port))).status_code == 200
        assert connections == expected


async def test_traffic_counts_as_use_and_a_question_does_not(
    front: Front, control: Control, admin: Principal, clock: TurnableClock
) -> None:
    await front.listen(3000, echo)
    await front.listen(49983, echo)
    before = (await control.sandboxes.get(admin, front.sandbox_id)).expires_at
    clock.turn(1000)
    await front.http.get("/health", headers=front.headers(49983))
    await control.settle()
    assert (await control.sandboxes.get(admin, front.sandbox_id)).expires_at == before
    await front.http.get("/", headers=front.headers(3000))
    await control.settle()
    after = (await control.sandboxes.get(admin, front.sandbox_id)).expires_at
    assert before is not None
    assert after is not None
    assert after > before


async def test_closed_ports_take_only_who_has_the_traffic_token(
    front: Front, control: Control, admin: Principal
) -> None:
    row = await control.sandboxes.create(
        admin, CreateRequest(template="base", network=Network(public_traffic=False))
    )
    closed = replace(front, sandbox_id=row.id)
    await closed.listen(3000, echo)
    await closed.listen(49983, echo)
    headers = closed.headers(3000)
    token = control.tokens.traffic(row.id)
    for sent in (
        {},
        {"E2B-Traffic-Access-Token": "x"},
        {"E2B-Traffic-Access-Token": control.tokens.of(row.id)},
    ):
        answer = await front.http.get("/", headers={**headers, **sent})
        assert (answer.status_code, answer.json()["code"]) == (403, 403)
    answer = await front.http.get("/", headers={**headers, "E2B-Traffic-Access-Token": token})
    assert answer.status_code == 200
    assert "e2b-traffic-access-token" not in answer.json()["headers"], "it is not the guest's business"
    # The guest agent demands a token of its own.
    assert (await front.http.get("/", headers=closed.headers(49983))).status_code == 200
    await control.sandboxes.hibernate(admin, row.id)
    assert (await front.http.get("/", headers=headers)).status_code == 403
    assert front.agent.moves == ["hibernate"], "who may not come in does not wake it either"


async def test_a_host_mask_is_what_servers_in_the_sandbox_see(
    front: Front, control: Control, admin: Principal
) -> None:
    row = await control.sandboxes.create(
        admin, CreateRequest(template="base", network=Network(mask_host="localhost:${PORT}"))
    )
    masked = replace(front, sandbox_id=row.id)
    await masked.listen(3000, echo)
    answer = await front.http.get("/", headers=masked.headers(3000))
    assert answer.json()["headers"]["host"] == "localhost:3000"


async def test_traffic_does_not_wake_what_is_not_to_be_woken_by_it(
    front: Front, control: Control, admin: Principal
) -> None:
    row = await control.sandboxes.create(admin, CreateRequest(template="base", wake_on_traffic=False))
    await control.sandboxes.hibernate(admin, row.id)
    answer = await front.http.get("/", headers=replace(front, sandbox_id=row.id).headers(3000))
    assert answer.status_code == 502
    assert "was not found" in answer.json()["message"]
    assert front.agent.moves == ["hibernate"]
