"""Upgrades through the gateway: bytes both ways once the guest has agreed. Needs nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

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
