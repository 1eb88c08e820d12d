"""GuestClient: everything the platform ever asks of the agent inside a sandbox.

One instance a sandbox. It speaks to the guest's control port, over sockets that ``connect(port)`` makes; it
needs no credentials since only the host reaches that port. Every method may raise
:class:`~pandastackd.errors.GuestUnreachable` (no answer in time) and
:class:`~pandastackd.errors.HostFailure` with code ``guest_protocol`` (an answer that breaks the protocol);
those are not repeated below. Nothing that comes back is trusted beyond its type and size.
"""

from __future__ import annotations

import asyncio
import json
import math
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Literal, Self
from urllib.parse import urlencode
from weakref import WeakSet

from pandastackd.errors import (
    CommandTimeout,
    GuestUnreachable,
    HostFailure,
    InvalidRequest,
    NotFound,
    PlatformError,
)
from pandastackd.guest import wire
from pandastackd.guest.connect_protocol import (
    MAX_FRAME,
    STREAM_CONTENT_TYPE,
    FrameDecoder,
    Json,
    decode_json,
    encode_bytes,
    encode_frame,
    encode_json,
    integer,
    rows,
    stream_error,
    table,
)
from pandastackd.guest.faults import nonsense, unreachable
from pandastackd.guest.transport import (
    Channel,
    Connect,
    body_of,
    connect_hedged,
    lines_of,
    read_bounded,
    refusal,
)
from pandastackd.guest.tunnel import open_tunnel
from pandastackd.guest.types import (
    AgentBuild,
    AgentProgram,
    Command,
    Ended,
    Event,
    FileInfo,
    FileReader,
    Identity,
    LogLine,
    Output,
    ProcessInfo,
    RunResult,
    Started,
    Usage,
)
from pandastackd.guest.upgrade import ask_build, put_in_place, read_build

CONTROL_PORT = 49984
PUBLIC_PORT = 49983
OUTPUT_LIMIT = 1024 * 1024
INPUT_PIECE = 64 * 1024
"""Most bytes of input that a guest is given at once."""

KEEPALIVE_SECONDS = 15
TIMEOUT_GRACE_SECONDS = 5.0
RUN_OUT_SECONDS = 0.5
_RETRY_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1)
_INIT_SILENCE_SECONDS = 10.0
_HOLD_SILENCE_SECONDS = 5.0
_PROCESS = "process.Process"
_FILESYSTEM = "filesystem.Filesystem"


class GuestClient:
    """Client of one guest's agent.

    Args:
        connect: makes a connected, non-blocking socket to a port of the guest; closes it when cancelled.
        port: the agent's control port.
        silence_seconds: how long the guest may say nothing while something is awaited.
    """

    def __init__(self, connect: Connect, *, port: int = CONTROL_PORT, silence_seconds: float = 60.0) -> None:
        self._connect = connect
        self._port = port
        self._channel = Channel(connect, port, silence_seconds=silence_seconds)
        self._dialled: WeakSet[socket.socket] = WeakSet()
        self._closed = False

    async def aclose(self) -> None:
        """Close every connection; streams still open end with GuestUnreachable, dialled sockets with their end."""
        self._closed = True
        for sock in list(self._dialled):
            # Its owner closes it; this only lets the owner know.
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        await self._channel.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    # ------------------------------------------------------------------ life

    async def introduce(self, identity: Identity, *, deadline_seconds: float) -> AgentBuild:
        """Tell a guest who it is and what time it is; retried until the deadline. Doubles as the first ping.

        Returns:
            Which build of the agent answered, empty for one that is too old to say.

        Raises:
            GuestUnreachable: it never answered within ``deadline_seconds``.
        """
        answered = await self._until_answered("/init", identity, deadline_seconds)
        return read_build(answered)

    async def upgrade(self, program: AgentProgram) -> AgentBuild:
        """Put another build of the agent in the place of the one that runs; processes and their output go on.

        Raises:
            UpgradeRefused: the guest goes on with the build it has.
            GuestUnreachable: neither build answers.
        """
        return await put_in_place(self._channel, program)

    async def build(self) -> AgentBuild:
        """Which build of the agent answers, for one that is too old to say so by itself."""
        build, _ = await ask_build(self._channel)
        return build

    async def ping(self, *, deadline_seconds: float) -> None:
        """Return once the agent answers.

        Raises:
            GuestUnreachable: it never did within ``deadline_seconds``.
        """
        await self._until_answered("/health", None, deadline_seconds)

    async def _until_answered(
        self, target: str, identity: Identity | None, deadline_seconds: float
    ) -> dict[bytes, bytes]:
        answered: dict[bytes, bytes] = {}
        deadline = time.monotonic() + deadline_seconds
        attempt = 0
        while True:
            left = max(deadline - time.monotonic(), 0.001)
            silence = min(left, _INIT_SILENCE_SECONDS)
            try:
                async with asyncio.timeout(left):
                    if identity is None:
                        await self._channel.collect(
                            "reach the guest", "GET", target, silence_seconds=silence, connect_seconds=left
                        )
                    else:
                        await self._channel.collect(
                            "set the guest's identity",
                            "POST",
                            target,
                            headers={b"Content-Type": b"application/json"},
                            body=encode_json(wire.init_message(identity)),
                            silence_seconds=silence,
                            connect_seconds=left,
                            answered=answered,
                        )
            except (GuestUnreachable, TimeoutError) as error:
                pause = _RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)]
                if time.monotonic() + pause >= deadline:
                    raise GuestUnreachable(
                        f"the guest agent did not answer within {deadline_seconds:g} s ({error}); "
                        "see the sandbox's console for why"
                    ) from error
                attempt += 1
                await asyncio.sleep(pause)
            else:
                return answered

    async def sync(self) -> None:
        """Flush the guest's file systems to its disk."""
        await self._channel.collect("flush the guest's disk", "POST", "/sync")

    async def hold(self) -> None:
        """Hold the guest's processes still until :meth:`release`, :meth:`introduce` or ten seconds of its time."""
        # An agent that was started by an earlier build of this host, and has run since, knows no such thing.
        with suppress(NotFound):
            await self._channel.collect(
                "hold the guest's processes", "POST", "/hold", silence_seconds=_HOLD_SILENCE_SECONDS
            )

    async def release(self) -> None:
        """Undo :meth:`hold`; harmless when nothing is held."""
        await self._channel.collect("let the guest's processes go on", "POST", "/release")

    async def shutdown(self) -> None:
        """Ask the guest to stop its processes, unmount and power off; returns once it has accepted."""
        await self._channel.collect("shut the guest down", "POST", "/shutdown")

    # ------------------------------------------------------------- processes

    async def start(self, command: Command) -> AsyncGenerator[Event]:
        """Start a process and follow it: one ``Started``, any ``Output``, one ``Ended``.

        Close the generator (``aclosing``) to stop following: the connection is closed at once.

        Raises:
            InvalidRequest: no program, or a folder or user the guest does not have.
            NotFound: no such program.
            CommandTimeout: ``timeout_seconds`` passed; the process and all its children were killed.
        """
        if not command.args:
            raise InvalidRequest("a command needs at least a program to run")
        async with aclosing(self._events(command)) as events:
            if command.timeout_seconds is None:
                async for event in events:
                    yield event
                return
            # The guest keeps the time; this clock is for a guest that does not.
            deadline = time.monotonic() + command.timeout_seconds + TIMEOUT_GRACE_SECONDS
            while True:
                try:
                    async with asyncio.timeout(deadline - time.monotonic()):
                        event = await anext(events)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    raise _timed_out(command.timeout_seconds) from None
                yield event

    async def _events(self, command: Command) -> AsyncGenerator[Event]:
        headers = wire.user_header(command.user)
        if command.timeout_seconds is not None:
            headers[b"Connect-Timeout-Ms"] = str(max(1, round(command.timeout_seconds * 1000))).encode(
                "ascii"
            )
        try:
            async with aclosing(
                self._process_stream("start the command", "Start", wire.start_message(command), headers)
            ) as events:
                async for event in events:
                    yield event
        except CommandTimeout:
            raise _timed_out(command.timeout_seconds) from None

    async def attach(self, pid_or_tag: int | str, offset: int | None = None) -> AsyncGenerator[Event]:
        """Follow a running process again, from byte ``offset`` of all its output, or from the oldest that is kept.

        Raises:
            NotFound: no such process, or it has ended and been forgotten.
        """
        message: Json = {"process": wire.selector(pid_or_tag)}
        if offset is not None:
            message["offset"] = offset
        async with aclosing(
            self._process_stream(f"follow process {pid_or_tag}", "Connect", message, {})
        ) as events:
            async for event in events:
                yield event

    async def _process_stream(
        self, what: str, method: str, message: Json, headers: dict[bytes, bytes]
    ) -> AsyncGenerator[Event]:
        started = False
        async with aclosing(self._frames(what, f"/{_PROCESS}/{method}", message, headers)) as frames:
            async for frame in frames:
                event = wire.read_event(frame)
                if event is None:
                    continue
                if isinstance(event, Started) is started:
                    raise nonsense("a process stream's start is not its first event")
                started = True
                if isinstance(event, Ended):
                    await _run_out(frames)
                    yield event
                    return
                yield event
        raise nonsense("a process stream without an end")

    async def _frames(
        self, what: str, target: str, message: Json, headers: dict[bytes, bytes]
    ) -> AsyncGenerator[Json]:
        headers = {
            b"Content-Type": STREAM_CONTENT_TYPE,
            b"Connect-Protocol-Version": b"1",
            b"Keepalive-Ping-Interval": str(KEEPALIVE_SECONDS).encode("ascii"),
            **headers,
        }
        async with self._channel.exchange(
            "POST", target, headers=headers, body=encode_frame(message)
        ) as response:
            if response.status != 200:
                raise refusal(what, response.status, await read_bounded(response, MAX_FRAME))
            decoder = FrameDecoder()
            async with aclosing(body_of(response)) as pieces:
                async for piece in pieces:
                    for frame in decoder.feed(piece):
                        if not frame.last:
                            yield frame.message
                        elif (error := stream_error(what, frame.message)) is not None:
                            raise error
            decoder.finish()

    async def run(self, command: Command, *, output_limit: int = OUTPUT_LIMIT) -> RunResult:
        """Run a short command to its end and keep up to ``output_limit`` bytes of each stream.

        Raises:
            The errors of :meth:`start`.
        """
        collected = {"stdout": bytearray(), "stderr": bytearray()}
        truncated, exit_code = False, -1
        async with aclosing(self.start(command)) as events:
            async for event in events:
                match event:
                    case Output(stream, data):
                        sink = collected["stderr" if stream == "stderr" else "stdout"]
                        room = output_limit - len(sink)
                        truncated = truncated or len(data) > room
                        sink += data[:room]
                    case Ended(exit_code, _, error):
                        if error and exit_code < 0:
                            raise HostFailure(f"the guest could not run the command: {error}")
        return RunResult(bytes(collected["stdout"]), bytes(collected["stderr"]), exit_code, truncated)

    async def processes(self) -> list[ProcessInfo]:
        """The processes the agent started that still run."""
        reply = await self._channel.call("list processes", f"{_PROCESS}/List", {})
        return [wire.read_process(row) for row in rows(reply, "processes")]

    async def signal(self, pid: int, name: Literal["SIGTERM", "SIGKILL"]) -> None:
        """Send a signal; SIGKILL takes all children along.

        Raises:
            NotFound: no such process.
        """
        await self._update(f"signal process {pid}", "SendSignal", pid, {"signal": f"SIGNAL_{name}"})

    async def send_input(self, pid: int, data: bytes, *, pty: bool = False) -> None:
        """Write to a process's stdin, or to its terminal, in pieces; waits until the guest has taken all of them.

        Raises:
            NotFound: no such process.
            Conflict: it takes no input.
        """
        kind = "pty" if pty else "stdin"
        for start in range(0, len(data), INPUT_PIECE):
            piece = encode_bytes(data[start : start + INPUT_PIECE])
            await self._update(f"write to process {pid}", "SendInput", pid, {"input": {kind: piece}})

    async def close_stdin(self, pid: int) -> None:
        """Let a process see the end of its input.

        Raises:
            NotFound: no such process.
        """
        await self._update(f"close the input of process {pid}", "CloseStdin", pid, {})

    async def resize(self, pid: int, cols: int, rows: int) -> None:
        """Resize a process's terminal.

        Raises:
            NotFound: no such process.
        """
        size = {"pty": {"size": {"cols": cols, "rows": rows}}}
        await self._update(f"resize the terminal of process {pid}", "Update", pid, size)

    async def _update(self, what: str, method: str, pid: int, message: Json) -> None:
        await self._channel.call(what, f"{_PROCESS}/{method}", {"process": wire.selector(pid), **message})

    # ----------------------------------------------------------------- files

    @asynccontextmanager
    async def read(self, path: str, user: str | None = None) -> AsyncIterator[FileReader]:
        """Open a file to be read inside the block.

        Raises:
            NotFound: no such file.
            InvalidRequest: it is a folder, or the path is not acceptable.
        """
        async with self._channel.exchange("GET", _file_target(path, user), headers={}) as response:
            if response.status != 200:
                raise refusal(f"read {path}", response.status, await read_bounded(response, MAX_FRAME))
            length = {name.lower(): value for name, value in response.headers}.get(b"content-length")
            size = integer({"size": length.decode("latin-1")}, "size") if length is not None else None
            async with aclosing(body_of(response)) as chunks:
                yield FileReader(size, chunks)

    async def write(
        self, path: str, chunks: AsyncIterable[bytes] | bytes, user: str | None = None
    ) -> FileInfo:
        """Write a file, streamed; folders above it are made.

        Raises:
            InsufficientStorage: the guest's disk is full.
            InvalidRequest: the path is not acceptable.
        """
        counter = _Counter(chunks)
        reply = await self._channel.collect(
            f"write {path}",
            "POST",
            _file_target(path, user),
            headers={b"Content-Type": b"application/octet-stream"},
            body=counter.body(),
        )
        try:
            entries = json.loads(reply)
        except (ValueError, RecursionError):
            raise nonsense("the answer to an upload is not JSON") from None
        if not isinstance(entries, list) or len(entries) != 1 or not isinstance(entries[0], dict):
            raise nonsense("the answer to an upload is not one entry")
        return wire.read_file_info({**entries[0], "size": counter.total})

    async def stat(self, path: str, user: str | None = None) -> FileInfo:
        """What is at ``path``.

        Raises:
            NotFound: nothing is.
        """
        return await self._entry(f"look at {path}", "Stat", {"path": path}, user)

    async def list_dir(self, path: str, depth: int = 1, user: str | None = None) -> list[FileInfo]:
        """What is in a folder, ``depth`` levels deep.

        Raises:
            NotFound: no such folder.
            InvalidRequest: it is not a folder.
        """
        message = {"path": path, "depth": depth}
        reply = await self._channel.call(
            f"list {path}", f"{_FILESYSTEM}/ListDir", message, headers=wire.user_header(user)
        )
        return [wire.read_file_info(entry) for entry in rows(reply, "entries")]

    async def make_dir(self, path: str, user: str | None = None) -> FileInfo:
        """Make a folder and those above it.

        Raises:
            Conflict: something is there already.
        """
        return await self._entry(f"make {path}", "MakeDir", {"path": path}, user)

    async def move(self, source: str, destination: str, user: str | None = None) -> FileInfo:
        """Rename or move.

        Raises:
            NotFound: no such file or folder.
        """
        message = {"source": source, "destination": destination}
        return await self._entry(f"move {source}", "Move", message, user)

    async def remove(self, path: str, user: str | None = None) -> None:
        """Remove a file, or a folder with everything in it.

        Raises:
            NotFound: nothing is there.
        """
        # To the guest, what is not there counts as removed.
        await self.stat(path, user)
        await self._channel.call(
            f"remove {path}", f"{_FILESYSTEM}/Remove", {"path": path}, headers=wire.user_header(user)
        )

    async def _entry(self, what: str, method: str, message: Json, user: str | None) -> FileInfo:
        reply = await self._channel.call(
            what, f"{_FILESYSTEM}/{method}", message, headers=wire.user_header(user)
        )
        return wire.read_file_info(table(reply, "entry"))

    # ------------------------------------------------------- logs and tunnels

    async def usage(self) -> Usage:
        """What the sandbox uses of its processors, memory and disk just now."""
        data = await self._channel.collect("measure the guest", "GET", "/metrics")
        return wire.read_usage(decode_json(data))

    async def logs(
        self,
        stream: Literal["stdout", "stderr", "both"] = "both",
        follow: bool = False,
        tail: int | None = None,
    ) -> AsyncGenerator[LogLine]:
        """What the sandbox's processes printed: the last ``tail`` lines that are kept, then what follows."""
        query: dict[str, str] = {"stream": stream, "follow": "true" if follow else "false"}
        if tail is not None:
            query["tail"] = str(tail)
        async with self._channel.exchange(
            "GET",
            f"/logs?{urlencode(query)}",
            headers={},
            # A sandbox that prints nothing is not a sandbox that is gone.
            silence_seconds=math.inf if follow else None,
        ) as response:
            if response.status != 200:
                raise refusal("read the logs", response.status, await read_bounded(response, MAX_FRAME))
            async with aclosing(lines_of(response, "a log line", MAX_FRAME)) as lines:
                async for line in lines:
                    if line.strip() and (parsed := wire.read_log_line(decode_json(line))):
                        yield parsed

    async def tunnel(self, port: int, *, timeout_seconds: float = 10.0) -> socket.socket:
        """A socket to ``port`` as the workload sees it (its own loopback included), passed on by the agent.

        The caller owns the socket and must close it.

        Raises:
            NotFound: nothing listens there.
        """
        return await open_tunnel(self._connect, self._port, port, timeout_seconds)

    async def dial(self, port: int, *, timeout_seconds: float = 10.0) -> socket.socket:
        """A socket for traffic from outside: to the agent's public port as it is, to any other through a tunnel.

        The caller owns the socket and must close it; :meth:`aclose` ends it.

        Raises:
            NotFound: nothing listens there.
        """
        if port == PUBLIC_PORT:
            try:
                sock = await connect_hedged(self._connect, port, timeout_seconds)
            except (OSError, TimeoutError) as error:
                raise unreachable(str(error) or "no connection in time") from error
        else:
            sock = await self.tunnel(port, timeout_seconds=timeout_seconds)
        if self._closed:
            sock.close()
            raise unreachable("the connection to it was given up")
        self._dialled.add(sock)
        return sock


async def _run_out(frames: AsyncGenerator[Json]) -> None:
    """Read a stream to its end, which the agent sends along with its last event: so its connection can be used again.

    All that was wanted of it is there already: whatever is wrong with the rest costs the connection and no more.
    """
    with suppress(PlatformError, TimeoutError):
        async with asyncio.timeout(RUN_OUT_SECONDS):
            async for _ in frames:
                pass


class _Counter:
    """An upload, with the number of bytes that went through it."""

    def __init__(self, chunks: AsyncIterable[bytes] | bytes) -> None:
        self._chunks = chunks
        self.total = 0

    def body(self) -> bytes | AsyncIterator[bytes]:
        if isinstance(self._chunks, bytes):
            self.total = len(self._chunks)
            return self._chunks
        return self._counted(self._chunks)

    async def _counted(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            self.total += len(chunk)
            yield chunk


def _file_target(path: str, user: str | None) -> str:
    query = {"path": path}
    if user is not None:
        query["username"] = user
    return f"/files?{urlencode(query)}"


def _timed_out(seconds: float | None) -> CommandTimeout:
    return CommandTimeout(
        f"command timed out: deadline exceeded after {seconds or 0:g} s; it and all its children were killed"
    )
