"""A client of QEMU's machine protocol (QMP) on a unix socket: commands with descriptors, and events.

Own code because descriptors have to travel with commands on any event loop, uvloop's included, whose
transports do not give their socket away. The other side is a process that a guest may have taken over, so
lines are bounded and every field is looked at before it is used.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

_MAX_LINE_BYTES = 4 << 20
_MAX_QUEUED_EVENTS = 256

JsonObject = dict[str, Any]


class QmpError(Exception):
    """Base of what can go wrong on the socket."""


class QmpClosed(QmpError):
    """QEMU closed the connection or said something that is not QMP: it ended, or is broken."""


class QmpTimeout(QmpError):
    """QEMU did not answer in time."""


class QmpRefused(QmpError):
    """QEMU answered with an error; the message is QEMU's own."""


class QmpClient:
    """One connection. QEMU serves one at a time: a second waits until the first is closed."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._ids = count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._listeners: dict[str, list[asyncio.Queue[JsonObject | None]]] = {}
        self._greeting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closed: str | None = None
        self._sending = asyncio.Lock()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, path: Path, *, timeout_seconds: float) -> QmpClient:
        """Connect, wait for the greeting and leave negotiation.

        Raises:
            QmpClosed: nobody listens, or QEMU ended meanwhile.
            QmpTimeout: QEMU did not greet in time.
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            _connect(connection, path)
        except OSError as error:
            connection.close()
            raise QmpClosed(f"cannot connect to QEMU: {error.strerror}") from error
        client = cls(connection)
        try:
            async with asyncio.timeout(timeout_seconds):
                await client._greeting
                await client.execute("qmp_capabilities", timeout_seconds=timeout_seconds)
        except BaseException as error:
            await client.close()
            if isinstance(error, TimeoutError):
                raise QmpTimeout(f"QEMU did not answer within {timeout_seconds:g} s") from error
            raise
        return client

    async def execute(
        self,
        command: str,
        arguments: JsonObject | None = None,
        *,
        fds: Sequence[int] = (),
        timeout_seconds: float = 30.0,
    ) -> Any:
        """Run one command and return what it returned. ``fds`` travel with it and stay open here.

        Raises:
            QmpRefused, QmpClosed, QmpTimeout
        """
        if self._closed is not None:
            raise QmpClosed(self._closed)
        number = next(self._ids)
        message: JsonObject = {"execute": command, "id": number}
        if arguments:
            message["arguments"] = arguments
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._send(json.dumps(message).encode() + b"\n", fds)
                return await answer
        except TimeoutError as error:
            raise QmpTimeout(f"QEMU did not answer {command} within {timeout_seconds:g} s") from error
        finally:
            del self._waiting[number]

    @contextmanager
    def events(self, name: str) -> Iterator[asyncio.Queue[JsonObject | None]]:
        """A queue that gets the data of every ``name`` event from now on, and ``None`` when the connection
        ends."""
        queue: asyncio.Queue[JsonObject | None] = asyncio.Queue(_MAX_QUEUED_EVENTS)
        self._listeners.setdefault(name, []).append(queue)
        if self._closed is not None:
            queue.put_nowait(None)
        try:
            yield queue
        finally:
            self._listeners[name].remove(queue)

    async def close(self) -> None:
        """End the connection; QEMU goes on and takes the next. Idempotent."""
        self._end("the connection to QEMU was closed")
        self._reader.cancel()
        with suppress(asyncio.CancelledError):
            await self._reader
        self._socket.close()

    async def _send(self, data: bytes, fds: Sequence[int]) -> None:
        loop = asyncio.get_running_loop()
        # Two commands at once must not mix their bytes, nor their descriptors.
        async with self._sending:
            try:
                if fds:
                    # A fresh or drained socket takes a line of this size whole; the rest is for the one that
                    # does not.
                    sent = socket.send_fds(self._socket, [data], list(fds))
                    data = data[sent:]
                if data:
                    await loop.sock_sendall(self._socket, data)
            except OSError as error:
                self._end(f"QEMU ended: {error.strerror}")
                raise QmpClosed(f"QEMU ended: {error.strerror}") from error

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        pending = bytearray()
        reason = "QEMU closed the connection"
        try:
            while data := await loop.sock_recv(self._socket, 64 * 1024):
                pending += data
                *lines, rest = pending.split(b"\n")
                pending = bytearray(rest)
                if len(pending) > _MAX_LINE_BYTES:
                    reason = "QEMU sent a line without end"
                    break
                for line in lines:
                    self._dispatch(line)
        except OSError as error:
            reason = f"QEMU ended: {error.strerror}"
        except (ValueError, RecursionError):
            reason = "QEMU sent something that is not QMP"
        self._end(reason)

    def _dispatch(self, line: bytes | bytearray) -> None:
        if not line.strip():
            return
        message = json.loads(line)
        if not isinstance(message, dict):
            self._end("QEMU sent something that is not QMP")
        elif "QMP" in message:
            if not self._greeting.done():
                self._greeting.set_result(None)
        elif isinstance(name := message.get("event"), str):
            data = message.get("data")
            for queue in self._listeners.get(name, ()):
                with suppress(asyncio.QueueFull):
                    queue.put_nowait(data if isinstance(data, dict) else {})
        else:
            self._answer(message)

    def _answer(self, message: JsonObject) -> None:
        number = message.get("id")
        answer = self._waiting.get(number) if isinstance(number, int) else None
        if answer is None or answer.done():
            return
        error = message.get("error")
        if isinstance(error, dict):
            answer.set_exception(QmpRefused(str(error.get("desc", "no reason given"))[:1000]))
        else:
            answer.set_result(message.get("return"))

    def _end(self, reason: str) -> None:
        if self._closed is not None:
            return
        self._closed = reason
        for future in (self._greeting, *self._waiting.values()):
            if not future.done():
                future.set_exception(QmpClosed(reason))
                # Nobody may be waiting for the greeting any more.
                future.exception()
        for queues in self._listeners.values():
            for queue in queues:
                if queue.full():
                    queue.get_nowait()
                queue.put_nowait(None)


def _connect(connection: socket.socket, path: Path) -> None:
    """Connect to a socket whose path may be longer than an address can hold."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        connection.connect(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)
