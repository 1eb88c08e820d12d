"""Bodies that come piece by piece, and calls that end when their client goes away.

A source is an async generator run by one task from start to end, so what it holds is taken and released in
one place. Its first piece is awaited before the answer begins: whatever fails until then is an ordinary
error answer. The queue between source and socket is short, so a slow client slows the source down and
memory stays flat.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, Generic, Self, TypeVar

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

log = structlog.get_logger(__name__)

T = TypeVar("T")

QUEUE_PIECES = 4


class Pump(Generic[T]):
    """Runs a generator in a task of its own and hands its items over one by one.

    Attributes:
        first: the item that came first.
    """

    first: T

    def __init__(self, source: AsyncGenerator[T]) -> None:
        self._queue: asyncio.Queue[T | _End] = asyncio.Queue(QUEUE_PIECES)
        self._cancelled = False
        self._task = asyncio.create_task(self._run(source))

    @classmethod
    async def open(cls, source: AsyncGenerator[T]) -> Self:
        """Start ``source`` and wait for its first item; raises what ``source`` raises before it."""
        self = cls(source)
        try:
            self.first = await self.next()
        except StopAsyncIteration:
            raise RuntimeError("a streamed body must have a first piece") from None
        except BaseException:
            await self.aclose()
            raise
        return self

    async def next(self) -> T:
        """The next item; raises StopAsyncIteration at the end, or what the source raised."""
        item = await self._queue.get()
        if isinstance(item, _End):
            raise item.error or StopAsyncIteration
        return item

    def cancel(self) -> None:
        """Cut the source off."""
        # Once only: a second time would cut off its clean-up.
        if not self._cancelled:
            self._cancelled = True
            self._task.cancel()

    async def aclose(self) -> None:
        """Cut the source off and wait until it has released what it holds."""
        self.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, source: AsyncGenerator[T]) -> None:
        error: Exception | None = None
        try:
            async with aclosing(source):
                async for item in source:
                    if self._cancelled:
                        # Something below took the cancellation for its own; nobody reads any more.
                        break
                    await self._queue.put(item)
        except Exception as raised:  # noqa: BLE001 - handed to whoever reads
            error = raised
        await self._queue.put(_End(error))


class _End:
    def __init__(self, error: Exception | None) -> None:
        self.error = error


class Streamed(Response):
    """An answer whose body a :class:`Pump` brings; its source ends when the client goes away.

    When the source fails midway the body stays incomplete, and the server cuts the connection: a client
    that counts bytes or waits for the last chunk notices.

    Args:
        size: of the whole body in bytes, where it is known; the client is told.
        ping: sent whenever nothing else was for ``ping_seconds``.
    """

    def __init__(
        self,
        pump: Pump[bytes],
        *,
        media_type: str,
        headers: Mapping[str, str] | None = None,
        size: int | None = None,
        ping: bytes | None = None,
        ping_seconds: float = 15.0,
    ) -> None:
        self.status_code = 200
        self.media_type = media_type
        self.background = None
        self._pump = pump
        self._size = size
        self._ping = ping
        self._ping_seconds = ping_seconds
        self.init_headers({**(headers or {}), **({} if size is None else {"content-length": str(size)})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the body."""
        gone = asyncio.create_task(_wait_gone(receive))
        gone.add_done_callback(lambda _: self._pump.cancel())
        try:
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            if await self._body(send, gone):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            await self._pump.aclose()

    async def _body(self, send: Send, gone: asyncio.Task[None]) -> bool:
        """Send all pieces; ``False`` when the body is not whole."""
        piece, sent = self._pump.first, 0
        try:
            while True:
                if piece:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                    sent += len(piece)
                piece = await self._upcoming(send, gone)
        except StopAsyncIteration:
            return True
        except ClientDisconnect:
            if sent == self._size:
                # It has everything, and did not wait for the end of our work.
                return True
            raise
        except Exception as error:  # noqa: BLE001 - the answer has begun: too late for another one
            log.warning("stream.cut", reason=str(error))
            return False

    async def _upcoming(self, send: Send, gone: asyncio.Task[None]) -> bytes:
        """The next piece; pings while it is not there."""
        upcoming = asyncio.create_task(self._pump.next())
        try:
            while True:
                await asyncio.wait(
                    {upcoming, gone}, timeout=self._ping_seconds, return_when=asyncio.FIRST_COMPLETED
                )
                if gone.done():
                    raise ClientDisconnect
                if upcoming.done():
                    return upcoming.result()
                if self._ping:
                    await send({"type": "http.response.body", "body": self._ping, "more_body": True})
        finally:
            upcoming.cancel()


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` returns; cancelled, with ClientDisconnect, when the client goes away first.

    The request's body must have been read.
    """
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_wait_gone(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _wait_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
