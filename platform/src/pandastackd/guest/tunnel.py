"""A raw byte tunnel to a port inside the guest, opened by an HTTP upgrade on the agent's control port."""

from __future__ import annotations

import asyncio
import socket

import h11

from pandastackd.errors import NotFound
from pandastackd.guest.faults import nonsense, refused, unreachable
from pandastackd.guest.transport import Connect, connect_hedged

MAX_HEAD = 16 * 1024
_REQUEST = "GET /tunnel?port={port} HTTP/1.1\r\nHost: guest\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"


async def open_tunnel(
    connect: Connect, control_port: int, port: int, timeout_seconds: float
) -> socket.socket:
    """A connected, non-blocking socket whose other end is ``port`` of the guest; nothing of it is read yet.

    Raises:
        GuestUnreachable: the agent did not answer in time.
        NotFound: nothing listens on ``port``.
        HostFailure: the answer is not HTTP.
    """
    sock: socket.socket | None = None
    try:
        async with asyncio.timeout(timeout_seconds):
            sock = await connect_hedged(connect, control_port, timeout_seconds)
            head = _REQUEST.format(port=port)
            await asyncio.get_running_loop().sock_sendall(sock, head.encode("ascii"))
            reply = await _read_head(sock)
        _require_upgrade(_parse(reply), port)
    except TimeoutError:
        _close(sock)
        raise unreachable("no tunnel in time") from None
    except OSError as error:
        _close(sock)
        raise unreachable(str(error)) from error
    except BaseException:
        _close(sock)
        raise
    return sock


def _close(sock: socket.socket | None) -> None:
    if sock is not None:
        sock.close()


async def _read_head(sock: socket.socket) -> bytes:
    """The response's head, and not one byte more: what follows belongs to the tunnel."""
    head = bytearray()
    while True:
        await _readable(sock)
        seen = sock.recv(MAX_HEAD, socket.MSG_PEEK)
        if not seen:
            raise unreachable("the connection ended before the tunnel was open")
        end = (head + seen).find(b"\r\n\r\n")
        take = len(seen) if end < 0 else end + 4 - len(head)
        head += sock.recv(take)
        if end >= 0:
            return bytes(head)
        if len(head) > MAX_HEAD:
            raise nonsense("a response head without an end")


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock, _set, ready)
    try:
        await ready
    finally:
        loop.remove_reader(sock)


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _require_upgrade(status: int, port: int) -> None:
    if status == 502:
        raise NotFound(f"nothing listens on port {port} of the guest; start the server there first")
    if status != 101:
        raise refused(f"open port {port} of the guest", status=status)


def _parse(head: bytes) -> int:
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method="GET", target="/", headers=[("Host", "guest"), ("Upgrade", "tcp")]))
    parser.send(h11.EndOfMessage())
    parser.receive_data(head)
    try:
        event = parser.next_event()
    except h11.RemoteProtocolError as error:
        raise nonsense(f"the answer is not HTTP ({error})") from error
    if isinstance(event, h11.InformationalResponse | h11.Response):
        return event.status_code
    raise nonsense("the answer is not an HTTP response")
