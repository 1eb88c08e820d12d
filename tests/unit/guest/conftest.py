"""A guest that answers what the test dictates, byte by byte. No root, no VM: it is a listener on the
loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from pandastackd.guest import GuestClient

Script = Callable[["Conversation"], Awaitable[None]]


class Conversation:
    """One connection of the client, seen from the guest."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def request(self) -> tuple[str, dict[str, str], bytes]:
        """The next request: its first line, its headers in lower case, its body (plain or chunked)."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        if headers.get("transfer-encoding") == "chunked":
            return first, headers, await self._chunked()
        return first, headers, await self.reader.readexactly(int(headers.get("content-length", "0")))

    async def _chunked(self) -> bytes:
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += await self.reader.readexactly(size)
            await self.reader.readexactly(2)
        await self.reader.readexactly(2)
        return body

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self, body: bytes = b"", *, status: str = "200 OK", headers: str = "") -> None:
        await self.send(f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    async def stream(self, *pieces: bytes) -> None:
        """A chunked reply; each piece is one HTTP chunk."""
        await self.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in pieces:
            await self.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        await self.send(b"0\r\n\r\n")


class Guest:
    """The listener; counts connections."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.connections = 0
        self.gone = asyncio.Event()
        self.address = ("", 0)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._script(Conversation(reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.gone.set()
            writer.close()

    async def connect(self, port: int) -> socket.socket:
        del port
        sock = socket.socket()
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, self.address)
        except BaseException:
            sock.close()
            raise
        return sock


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def scripted() -> Callable[..., object]:
    """``async with scripted(script, silence_seconds=…) as (client, guest)``."""

    @asynccontextmanager
    async def make(script: Script, silence_seconds: float = 5.0) -> AsyncIterator[tuple[GuestClient, Guest]]:
        guest = Guest(script)
        server = await asyncio.start_server(guest.serve, "127.0.0.1", 0)
        guest.address = server.sockets[0].getsockname()
        async with GuestClient(guest.connect, silence_seconds=silence_seconds) as client:
            yield client, guest
        server.close()

    return make
