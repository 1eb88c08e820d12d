"""Upgrades through the gateway: bytes both ways once the guest has agreed. Needs nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import InvalidStatus

from pandastackd.control import Control, CreateRequest, Network, Principal
from tests.unit.gateway.conftest import Front

pytestmark = pytest.mark.anyio

CRLF = b"\r\n\r\n"


def upgrade(front: Front, port: int, sandbox_id: str | None = None) -> bytes:
    return (
        f"GET /chat?a=b HTTP/1.1\r\nHost: {port}-{sandbox_id or front.sandbox_id}.example\r\n"
        "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n"
    ).encode()


async def shouting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Agrees to an upgrade, sends a first word with its answer, then everything back in capitals."""
    head = await reader.readuntil(CRLF)
    assert head.startswith(b"GET /chat?a=b HTTP/1.1\r\n")
    assert b"sec-websocket-key: k\r\n" in head
    assert b"upgrade: websocket\r\n" in head
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nfirst"
    )
    while data := await reader.read(65536):
        writer.write(data.upper())
        await writer.drain()
    writer.write(b"last")
    writer.close()


async def test_bytes_go_both_ways_until_both_have_ended(front: Front) -> None:
    await front.listen(3000, shouting)
    reader, writer = await front.raw(upgrade(front, 3000))
    head = await reader.readuntil(CRLF)
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"upgrade: websocket\r\n" in head.lower()
    assert await reader.readexactly(5) == b"first"
    writer.write(b"abc\0\xff\n")
    assert await reader.readexactly(6) == b"ABC\0\xff\n"
    big = bytes(range(97, 123)) * 200_000
    writer.write(big)
    assert await reader.readexactly(len(big)) == big.upper()
    writer.write_eof()
    assert await reader.read() == b"last"
    writer.close()


async def test_a_client_that_goes_away_ends_the_guests_side(front: Front) -> None:
    ended = asyncio.Event()

    async def waiting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(CRLF)
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        await reader.read()
        ended.set()
        writer.close()

    await front.listen(3000, waiting)
    reader, writer = await front.raw(upgrade(front, 3000))
    await reader.readuntil(CRLF)
    writer.transport.abort()
    await asyncio.wait_for(ended.wait(), 5)


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", b"403", b"no"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"200", b"ok"),
        (b"nonsense", b"502", b"no proper answer"),
    ],
)
async def test_without_an_agreement_the_connection_ends_after_the_answer(
    front: Front, answer: bytes, status: bytes, body: bytes
) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(CRLF)
        writer.write(answer)
        if answer == b"nonsense":
            writer.close()

    await front.listen(3000, handler)
    reader, writer = await front.raw(upgrade(front, 3000))
    got = await asyncio.wait_for(reader.read(), 5)
    assert got.split(b" ")[1] == status
    assert b"connection: close" in got.lower()
    assert body in got
    writer.close()


async def test_unreachable_targets(front: Front) -> None:
    for port, sandbox_id, text in ((9, None, b"port is not open"), (3000, "x" * 20, b"was not found")):
        reader, writer = await front.raw(upgrade(front, port, sandbox_id))
        got = await asyncio.wait_for(reader.read(), 5)
        assert got.startswith(b"HTTP/1.1 502 ")
        assert text in got
        writer.close()


async def test_other_websockets_stay_the_platforms(front: Front) -> None:
    request = upgrade(front, 3000).replace(f"3000-{front.sandbox_id}.example".encode(), b"localhost")
    reader, writer = await front.raw(request)
    assert (await reader.readline()).split(b" ")[1] in (b"400", b"403", b"404")
    writer.close()


@pytest.fixture
def key(admin: Principal, tmp_path: Path) -> str:
    """The administrator's."""
    return (tmp_path / "admin.key").read_text().strip()


async def test_through_the_platforms_own_address_nothing_of_the_platforms_goes_along(
    front: Front, key: str
) -> None:
    heads: list[bytes] = []

    async def noting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(CRLF))
        agreed = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        writer.write(agreed + b"Set-Cookie: a=b\r\nX-Own: kept\r\n\r\nfirst")
        writer.write(b"got " + await reader.read())
        writer.close()

    await front.listen(3000, noting)
    lead = f"/v1/sandboxes/{front.sandbox_id}/proxy/3000"
    asked = upgrade(front, 3000).replace(
        b"GET /chat?a=b", f"GET {lead}/a%20b?x=1&access_token={key}".encode()
    )
    asked = asked.replace(f"3000-{front.sandbox_id}.example".encode(), b"localhost\r\nCookie: c=d")
    reader, writer = await front.raw(asked)
    head = (await reader.readuntil(CRLF)).lower()
    assert head.startswith(b"http/1.1 101 ")
    assert b"x-own: kept\r\n" in head
    assert b"set-cookie" not in head
    assert await reader.readexactly(5) == b"first"
    writer.write(b"bytes")
    writer.write_eof()
    assert await reader.read() == b"got bytes"
    writer.close()
    assert heads[0].startswith(b"GET /a%20b?x=1 HTTP/1.1\r\n")
    for secret in (b"cookie", b"authorization", b"access_token", key.encode()):
        assert secret not in heads[0].lower()


async def test_a_websocket_through_every_address_of_a_port(
    front: Front, key: str, stranger: str, control: Control, admin: Principal
) -> None:
    async def echo(socket: ServerConnection) -> None:
        async for message in socket:
            await socket.send(message)

    own, base = front.sandbox_id, f"ws://127.0.0.1:{front.port}/v1"
    proxy = f"{base}/sandboxes/{own}/proxy/3000/chat"
    token, _ = await control.previews.create(admin, own, port=3000, ttl_seconds=60, paths=["/chat"])
    bearer = {"Authorization": f"Bearer {key}"}
    async with serve(echo, "127.0.0.1", 0) as guest:
        front.agent.guests[own].ports[3000] = next(iter(guest.sockets)).getsockname()[1]
        for url, headers in (
            (f"ws://127.0.0.1:{front.port}/chat", front.headers(3000)),
            (proxy, bearer),
            (f"{proxy}?access_token={key}", {}),
            (f"{base}/p/{token}/chat", {}),
        ):
            async with connect(url, additional_headers=headers, max_size=None, proxy=None) as socket:
                for message in ("ünïcødé 🐼", b"\0\xff", bytes(300_000), ""):
                    await socket.send(message)
                    assert await socket.recv() == message
        for url, headers, status in (
            (proxy, {}, 401),
            (proxy, {"Authorization": f"Bearer {stranger}"}, 404),
            (proxy.replace("3000", "0"), bearer, 400),
            (proxy.replace("3000", "9"), bearer, 502),
            (f"{base}/p/{token}/closed", {}, 403),
            (f"{base}/p/{token}x/chat", {}, 401),
        ):
            with pytest.raises(InvalidStatus) as refused:
                async with connect(url, additional_headers=headers, proxy=None):
                    pass
            assert refused.value.response.status_code == status
            assert b'"code"' in (refused.value.response.body or b"")


async def test_closed_ports_and_masks_hold_for_upgrades_too(
    front: Front, control: Control, admin: Principal
) -> None:
    network = Network(public_traffic=False, mask_host="app:${PORT}")
    row = await control.sandboxes.create(admin, CreateRequest(template="base", network=network))
    hosts: list[bytes] = []

    async def noting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hosts.append(await reader.readuntil(CRLF))
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        writer.close()

    await replace(front, sandbox_id=row.id).listen(3000, noting)
    asked = upgrade(front, 3000, row.id)
    reader, writer = await front.raw(asked)
    assert (await reader.readuntil(CRLF)).startswith(b"HTTP/1.1 403 ")
    writer.close()
    token = f"E2b-Traffic-Access-Token: {control.tokens.traffic(row.id)}\r\n\r\n".encode()
    reader, writer = await front.raw(asked[:-2] + token)
    assert (await reader.readuntil(CRLF)).startswith(b"HTTP/1.1 101 ")
    writer.close()
    assert len(hosts) == 1
    assert b"host: app:3000\r\n" in hosts[0]
