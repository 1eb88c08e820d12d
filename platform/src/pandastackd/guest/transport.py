"""HTTP/1.1 to a guest over whatever byte stream ``connect(port)`` gives: a bounded pool with typed errors.

Every round trip into an emulated guest costs milliseconds, so: a request and its small body leave in one
segment, connections are kept and reused, and a connect that is not answered at once is tried again beside
the first (a lost SYN would otherwise cost the kernel's whole second).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from select import POLLIN, poll
from typing import Any

import httpcore

from pandastackd.errors import PlatformError, TooLarge
from pandastackd.guest.connect_protocol import (
    UNARY_CONTENT_TYPE,
    Json,
    decode_json,
    encode_json,
    text,
)
from pandastackd.guest.faults import nonsense, refused, unreachable

Connect = Callable[[int], Awaitable[socket.socket]]

MAX_REPLY = 16 * 1024 * 1024
"""Bytes of one collected (not streamed) reply."""

CONNECT_SECONDS = 5.0
HEDGE_SECONDS = 0.25
HEDGE_ATTEMPTS = 3
POOL_SECONDS = 10.0
MAX_CONNECTIONS = 512
IDLE_CONNECTIONS = 8
IDLE_SECONDS = 20.0

_COALESCE = 16 * 1024
_HOST = b"guest"

Body = bytes | AsyncIterator[bytes]


class Channel:
    """Requests to one port of one guest.

    Args:
        connect: makes a connected, non-blocking socket to a port of the guest; closes it when cancelled.
        silence_seconds: a guest that says nothing for this long while something is awaited is unreachable.
    """

    def __init__(self, connect: Connect, port: int, *, silence_seconds: float) -> None:
        self.silence_seconds = silence_seconds
        self._port = port
        self._closed = False
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=IDLE_CONNECTIONS,
            keepalive_expiry=IDLE_SECONDS,
            network_backend=_Backend(connect),
        )

    async def aclose(self) -> None:
        """Close every connection; what waits on one ends with GuestUnreachable, and so does what comes later."""
        self._closed = True
        await self._pool.aclose()

    @asynccontextmanager
    async def exchange(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[bytes, bytes],
        body: Body = b"",
        silence_seconds: float | None = None,
        connect_seconds: float = CONNECT_SECONDS,
    ) -> AsyncIterator[httpcore.Response]:
        """One request; the body of the response is read by the caller inside the block.

        Leaving the block before the body's end closes the connection: so the guest learns that nobody
        listens.

        Raises:
            GuestUnreachable: no connection, or silence for too long, or the connection broke.
            HostFailure: what came back is not HTTP.
        """
        if self._closed:
            raise unreachable("the connection to it was given up")
        silence = self.silence_seconds if silence_seconds is None else silence_seconds
        patience = None if silence == math.inf else silence
        source = None if isinstance(body, bytes) else _Source(body)
        request = httpcore.Request(
            method,
            httpcore.URL(scheme=b"http", host=_HOST, port=self._port, target=target.encode("ascii")),
            headers=[(b"Host", _HOST), *headers.items(), *_framing(method, body)],
            content=body if isinstance(body, bytes) else source,
            extensions={
                "timeout": {
                    "connect": connect_seconds,
                    "read": patience,
                    "write": patience,
                    "pool": POOL_SECONDS,
                }
            },
        )
        with _as_platform_errors(source):
            response = await self._pool.handle_async_request(request)
        try:
            yield response
        finally:
            with contextlib.suppress(PlatformError), _as_platform_errors():
                await response.aclose()

    async def collect(
        self,
        what: str,
        method: str,
        target: str,
        *,
        headers: Mapping[bytes, bytes] | None = None,
        body: Body = b"",
        silence_seconds: float | None = None,
        connect_seconds: float = CONNECT_SECONDS,
        answered: dict[bytes, bytes] | None = None,
    ) -> bytes:
        """One request whose whole, bounded reply is wanted.

        Args:
            answered: gets the headers of the reply, by their names in lower case.

        Raises:
            PlatformError: the guest refused ``what``, or any error of :meth:`exchange`.
        """
        async with self.exchange(
            method,
            target,
            headers=headers or {},
            body=body,
            silence_seconds=silence_seconds,
            connect_seconds=connect_seconds,
        ) as response:
            data = await read_bounded(response)
        if response.status >= 300:
            raise refusal(what, response.status, data)
        if answered is not None:
            answered.update((name.lower(), value) for name, value in response.headers)
        return data

    async def call(
        self, what: str, method: str, message: Json, *, headers: Mapping[bytes, bytes] | None = None
    ) -> Json:
        """One unary Connect call, ``Service/Method``.

        Raises:
            PlatformError: the guest refused ``what``, or any error of :meth:`exchange`.
        """
        data = await self.collect(
            what,
            "POST",
            f"/{method}",
            headers={
                b"Content-Type": UNARY_CONTENT_TYPE,
                b"Connect-Protocol-Version": b"1",
                **(headers or {}),
            },
            body=encode_json(message),
        )
        return decode_json(data) if data else {}


async def read_bounded(response: httpcore.Response, limit: int = MAX_REPLY) -> bytes:
    """The whole body of ``response``.

    Raises:
        TooLarge: it is larger than ``limit`` bytes.
    """
    data = bytearray()
    async for chunk in body_of(response):
        data += chunk
        if len(data) > limit:
            raise TooLarge(f"the guest's answer is larger than {limit} bytes; ask for less at once")
    return bytes(data)


async def body_of(response: httpcore.Response) -> AsyncGenerator[bytes]:
    """The body of ``response`` in pieces, with the connection's faults as platform errors."""
    pieces = response.aiter_stream()
    while True:
        with _as_platform_errors():
            piece = await anext(pieces, None)
        if piece is None:
            return
        yield piece


async def lines_of(response: httpcore.Response, what: str, limit: int) -> AsyncGenerator[bytes]:
    """The body of ``response`` line by line; what follows the last line break is left out.

    Raises:
        HostFailure: a line, ``what``, has more than ``limit`` bytes.
    """
    pending = bytearray()
    async with contextlib.aclosing(body_of(response)) as pieces:
        async for piece in pieces:
            *whole, rest = piece.split(b"\n")
            for line in whole:
                pending += line
                yield bytes(pending)
                pending.clear()
            pending += rest
            if len(pending) > limit:
                raise nonsense(f"{what} without an end")


def refusal(what: str, status: int, body: bytes) -> PlatformError:
    """The error in a response of status 300 or more, in Connect's or the REST routes' spelling."""
    try:
        message = decode_json(body)
        code, detail = message.get("code"), text(message, "message") or text(message, "error")
        return refused(what, status=status, code=code if isinstance(code, str) else None, message=detail)
    except PlatformError:
        return refused(what, status=status, message=body[:1000].decode("utf-8", "replace"))


def _framing(method: str, body: Body) -> list[tuple[bytes, bytes]]:
    if not isinstance(body, bytes):
        return [(b"Transfer-Encoding", b"chunked")]
    if body or method not in {"GET", "HEAD"}:
        return [(b"Content-Length", str(len(body)).encode("ascii"))]
    return []


class _Source:
    """A caller's upload; remembers that it was the caller's side that failed, whatever the error is."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self.failure: Exception | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._chunks:
                yield chunk
        except Exception as error:
            self.failure = error
            raise


@contextlib.contextmanager
def _as_platform_errors(source: _Source | None = None) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if source is not None and source.failure is not None:
            raise source.failure from None
        if (known := _platform_error(error)) is None:
            raise
        raise known from error


def _platform_error(error: Exception) -> PlatformError | None:
    match error:
        case httpcore.RemoteProtocolError() | httpcore.LocalProtocolError():
            # h11 reports a connection that ends inside a message in the same way as one that talks nonsense.
            if "disconnected" in str(error) or "closed" in str(error):
                return unreachable(f"the connection ended: {error}")
            return nonsense(f"the answer is not HTTP ({error})")
        case httpcore.TimeoutException() | TimeoutError():
            return unreachable(f"nothing came in time ({type(error).__name__})")
        case httpcore.NetworkError() | OSError():
            return unreachable(str(error) or type(error).__name__)
        case _:
            return None


class _Backend(httpcore.AsyncNetworkBackend):
    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        del host, local_address, socket_options
        try:
            sock = await connect_hedged(self._connect, port, CONNECT_SECONDS if timeout is None else timeout)
            sock.setblocking(False)
            # Only TCP knows this; a stream of another family needs it not.
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout("no connection in time") from error
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        return _Stream(sock)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def connect_hedged(connect: Connect, port: int, timeout_seconds: float) -> socket.socket:
    """A connection to ``port``: the first of up to three overlapping attempts that succeeds.

    Raises:
        TimeoutError: none was answered in time.
        OSError: all were refused.
    """
    deadline = time.monotonic() + timeout_seconds
    pending: set[asyncio.Task[socket.socket]] = set()
    done: set[asyncio.Task[socket.socket]] = set()
    started = 0
    failure: BaseException | None = None
    try:
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("no connection in time")
            if started < HEDGE_ATTEMPTS:
                pending.add(asyncio.ensure_future(connect(port)))
                started += 1
            wait = min(left, HEDGE_SECONDS) if started < HEDGE_ATTEMPTS else left
            done, pending = await asyncio.wait(pending, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            while done:
                task = done.pop()
                failure = task.exception()
                if failure is None:
                    return task.result()
            if failure is not None and not pending:
                raise failure
    finally:
        for task in pending | done:
            task.add_done_callback(_close_late)
            task.cancel()


def _close_late(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


class _Stream(httpcore.AsyncNetworkStream):
    """A connection that holds small writes until something is read, so that head and body travel together.

    It works on the bare socket: what a guest answered before it cut the connection must still be readable then, and
    asyncio's streams drop it.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._held = bytearray()
        self._in_use = 0
        self._closed = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            async with self._using(), asyncio.timeout(timeout):
                with contextlib.suppress(OSError):
                    # A guest that takes no more may have said why; what it said is read next.
                    await self._flush()
                return await asyncio.get_running_loop().sock_recv(self._sock, max_bytes)
        except TimeoutError as error:
            raise httpcore.ReadTimeout("the guest said nothing") from error
        except OSError as error:
            raise httpcore.ReadError(str(error)) from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._held += buffer
        if len(self._held) < _COALESCE:
            return
        if self._readable():
            raise httpcore.WriteError("the guest answered before it had everything")
        try:
            async with self._using(), asyncio.timeout(timeout):
                await self._flush()
        except TimeoutError as error:
            raise httpcore.WriteTimeout("the guest takes no more data") from error
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error

    async def _flush(self) -> None:
        held, self._held = self._held, bytearray()
        if held:
            await asyncio.get_running_loop().sock_sendall(self._sock, held)

    async def aclose(self) -> None:
        self._closed = True
        # Wakes whoever waits on the socket; closing it under them would leave them waiting for ever.
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        if not self._in_use:
            self._sock.close()

    @asynccontextmanager
    async def _using(self) -> AsyncIterator[None]:
        self._in_use += 1
        try:
            yield
        finally:
            self._in_use -= 1
            if self._closed and not self._in_use:
                self._sock.close()

    def get_extra_info(self, info: str) -> Any:
        # Readable while idle means that the guest closed it: the pool must not use it again.
        return self._readable() if info == "is_readable" else None

    def _readable(self) -> bool:
        if self._sock.fileno() < 0:
            return True
        poller = poll()
        poller.register(self._sock, POLLIN)
        return bool(poller.poll(0))
