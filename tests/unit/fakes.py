"""A host and its guests without machines: everything in memory, nothing faked that a test does not ask for.

``FakeGuest`` runs real commands in a real bash on this machine, in a folder of its own, so exit codes,
streams and kills are not imitations; its files live in that folder, too.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import socket
import stat
import termios
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from pandastackd.domain import (
    Egress,
    ForkReport,
    HostCapacity,
    MachineUsage,
    Phases,
    SandboxReport,
    SandboxSpec,
    SnapshotReport,
    TemplateReport,
)
from pandastackd.errors import CommandTimeout, Conflict, InvalidRequest, NotFound, PlatformError
from pandastackd.guest.types import (
    Command,
    Ended,
    Event,
    FileInfo,
    FileReader,
    LogLine,
    Output,
    ProcessInfo,
    Started,
    Usage,
)
from pandastackd.lifecycle import State

PIECE = 65536
MAX_LINES = 1000
"""A fake guest keeps the first lines of its log."""
_Stream = Literal["stdout", "stderr", "pty"]
ENVD_VERSION = "0.6.7"


class TurnableClock:
    """A wall clock that stands still until it is turned."""

    def __init__(self) -> None:
        self.time = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def turn(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        self.time += timedelta(seconds=seconds)


class FakeGuest:
    """A guest whose files are a folder and whose processes are this machine's.

    Attributes:
        script: what every command does instead, if set, where a test needs it to the byte.
        env: what every command gets.
        ports: port of the guest → port of this machine that stands for it.
    """

    def __init__(self, home: Path, env: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.env = dict(env or {})
        self.home.mkdir(parents=True, exist_ok=True)
        self.lines = [LogLine("stdout", "hello"), LogLine("stderr", "ünïcode")]
        self.printed = asyncio.Event()
        self.inputs: dict[int, asyncio.StreamWriter] = {}
        self.killed: list[int] = []
        self.running: dict[int, str | None] = {}
        self.script: list[Event] = []
        # No interpreter, whatever this machine itself runs there.
        self.ports: dict[int, int] = {49_999: 1}

    async def start(self, command: Command) -> AsyncGenerator[Event]:
        if self.script:
            for scripted in self.script:
                yield scripted
            return
        if command.user not in {None, "user", "root"}:
            raise InvalidRequest(f"there is no user {command.user}")
        folder = self.home if command.cwd is None else self._place(command.cwd)
        if not folder.is_dir():
            raise InvalidRequest(f"there is no folder {command.cwd}")
        # A home of its own: this machine's profile is none of a guest's business, and may take its time.
        env = {**os.environ, "HOME": str(self.home), **self.env, **command.env}
        process, outputs, terminal = await _spawn(command, env, folder)
        self.running[process.pid] = command.tag
        if terminal is not None or process.stdin is not None:
            self.inputs[process.pid] = terminal or process.stdin  # type: ignore[assignment]
        queue: asyncio.Queue[Output | None] = asyncio.Queue(4)
        pumps = [asyncio.create_task(_pump(reader, name, queue)) for name, reader in outputs.items()]
        loop = asyncio.get_running_loop()
        deadline = None if command.timeout_seconds is None else loop.time() + command.timeout_seconds
        try:
            yield Started(process.pid)
            open_streams = len(pumps)
            while open_streams:
                try:
                    async with asyncio.timeout_at(deadline):
                        item = await queue.get()
                except TimeoutError:
                    _kill_group(process.pid)
                    raise CommandTimeout("command timed out: deadline exceeded") from None
                if item is None:
                    open_streams -= 1
                else:
                    self._log(item)
                    yield item
            code = await process.wait()
            yield Ended(code if code >= 0 else 128 - code)
        finally:
            self.running.pop(process.pid, None)
            self.inputs.pop(process.pid, None)
            for pump in pumps:
                pump.cancel()
            if terminal is not None:
                terminal.close()
            process._transport.close()  # type: ignore[attr-defined]

    async def send_input(self, pid: int, data: bytes, *, pty: bool = False) -> None:
        writer = self._input(pid)
        writer.write(data)
        try:
            await writer.drain()
        except ConnectionError:
            raise Conflict(f"process {pid} reads no more") from None

    async def close_stdin(self, pid: int) -> None:
        self._input(pid).close()

    async def resize(self, pid: int, cols: int, rows: int) -> None:
        termios.tcsetwinsize(self._input(pid).get_extra_info("pipe"), (rows, cols))

    def _input(self, pid: int) -> asyncio.StreamWriter:
        try:
            return self.inputs[pid]
        except KeyError:
            raise NotFound(f"no process {pid} takes input") from None

    def _log(self, item: Output) -> None:
        if item.stream != "pty" and len(self.lines) < MAX_LINES:
            self.lines += [
                LogLine(item.stream, line) for line in item.data.decode(errors="replace").splitlines()
            ]
            self.printed.set()

    async def signal(self, pid: int, name: Literal["SIGTERM", "SIGKILL"]) -> None:
        self.killed.append(pid)
        _kill_group(pid)

    async def processes(self) -> list[ProcessInfo]:
        return [ProcessInfo(pid, (), None, {}, tag) for pid, tag in self.running.items()]

    @asynccontextmanager
    async def read(self, path: str) -> AsyncIterator[FileReader]:
        place = self._place(path)
        if place.is_dir():
            raise InvalidRequest(f"{path} is a folder")
        if not place.exists():
            raise NotFound(f"cannot read {path}: no such file")

        async def chunks() -> AsyncIterator[bytes]:
            with place.open("rb") as file:
                while data := file.read(PIECE):
                    yield data

        yield FileReader(place.stat().st_size, chunks())

    async def write(self, path: str, chunks: AsyncIterable[bytes] | bytes) -> FileInfo:
        place = self._place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("wb") as file:
            if isinstance(chunks, bytes):
                file.write(chunks)
            else:
                async for chunk in chunks:
                    file.write(chunk)
        return _info(place)

    async def stat(self, path: str) -> FileInfo:
        place = self._place(path)
        if not place.exists():
            raise NotFound(f"cannot look at {path}: no such file")
        return _info(place)

    async def list_dir(self, path: str) -> list[FileInfo]:
        place = self._place(path)
        if not place.is_dir():
            raise NotFound(f"cannot list {path}: no such folder")
        return [_info(entry) for entry in sorted(place.iterdir())]

    async def remove(self, path: str) -> None:
        place = self._place(path)
        if not place.exists():
            raise NotFound(f"cannot remove {path}: no such file")
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink()

    async def logs(
        self, stream: Literal["stdout", "stderr", "both"], follow: bool
    ) -> AsyncGenerator[LogLine]:
        seen = 0
        while True:
            for line in self.lines[seen:]:
                seen += 1
                if stream in ("both", line.stream):
                    yield line
            if not follow:
                return
            self.printed.clear()
            await self.printed.wait()

    async def usage(self) -> Usage:
        return Usage(1893553445, 1, 12.5, 100, 512, 50, 1000, 4000)

    async def dial(self, port: int, *, timeout_seconds: float = 10.0) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.ports.get(port, port)))
        except OSError:
            sock.close()
            raise NotFound(f"nothing listens on port {port}") from None
        return sock

    def _place(self, path: str) -> Path:
        return self.home / path.lstrip("/")


class FakeAgent:
    """A host's agent whose machines are rows in a dictionary.

    Attributes:
        fail_create: raised by the next creates, if set.
        gate: creates, forks, snapshots and moves to and from disk wait for it, if set.
        created: every spec it was asked for.
        taken: ids of the users' snapshots whose files are there.
        fail_snapshot: raised by the next captures, of forks too, if set.
        fail_children: what becomes of the children of a fork with these numbers.
        moves: every hibernate, wake and rollback that began.
        egress: what each sandbox may reach.
        past: what each sandbox used before.
        ports: ``FakeGuest.ports`` of every guest to come.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sandboxes: dict[str, SandboxReport] = {}
        self.guests: dict[str, FakeGuest] = {}
        self.created: list[SandboxSpec] = []
        self.deleted: list[str] = []
        self.fail_create: PlatformError | None = None
        self.fail_move: PlatformError | None = None
        self.gate: asyncio.Event | None = None
        self.host = HostCapacity(8192, 0, 8192, 100_000, 16384, 0)
        self.taken: set[str] = set()
        self.fail_snapshot: PlatformError | None = None
        self.fail_children: dict[int, PlatformError] = {}
        self.moves: list[str] = []
        self.baked = [template("base", aliases=("ubuntu-24.04",)), template("code-interpreter")]
        self.changes: asyncio.Queue[str] = asyncio.Queue()
        self.egress: dict[str, Egress] = {}
        self.past: dict[str, list[Usage]] = {}
        self.ports: dict[int, int] = {}
        self.closed = False

    async def capacity(self) -> HostCapacity:
        return self.host

    async def templates(self) -> list[TemplateReport]:
        return list(self.baked)

    async def create(self, spec: SandboxSpec) -> SandboxReport:
        self.created.append(spec)
        if self.gate is not None:
            await self.gate.wait()
        if self.fail_create is not None:
            raise self.fail_create
        return self._born(spec)

    def _born(self, spec: SandboxSpec) -> SandboxReport:
        report = SandboxReport(
            id=spec.id,
            state=State.RUNNING,
            snapshot_id=spec.snapshot_id,
            vcpus=1,
            memory_mib=512,
            guest_ip="10.200.0.2",
            host_tap="slot-1/data",
            mac="02:50:53:00:00:02",
            boot_mode="restore",
            phases=Phases(slot=1, disk=2, vmm=30, load=5, guest=70, total=108),
            envd_version=ENVD_VERSION,
        )
        self.sandboxes[spec.id] = report
        self.egress[spec.id] = spec.egress
        self.guests[spec.id] = FakeGuest(self.root / spec.id, spec.env)
        self.guests[spec.id].ports |= self.ports
        return report

    async def delete(self, sandbox_id: str) -> None:
        self.deleted.append(sandbox_id)
        self.sandboxes.pop(sandbox_id, None)
        if guest := self.guests.pop(sandbox_id, None):
            for pid in list(guest.running):
                _kill_group(pid)

    async def report(self, sandbox_id: str) -> SandboxReport:
        try:
            return self.sandboxes[sandbox_id]
        except KeyError:
            raise NotFound(f"sandbox {sandbox_id} is not on this host") from None

    async def reports(self) -> list[SandboxReport]:
        return list(self.sandboxes.values())

    async def pause(self, sandbox_id: str) -> SandboxReport:
        return self._set(sandbox_id, State.PAUSED)

    async def resume(self, sandbox_id: str) -> SandboxReport:
        return self._set(sandbox_id, State.RUNNING)

    async def hibernate(self, sandbox_id: str) -> SandboxReport:
        return await self._to_disk_or_back("hibernate", sandbox_id, State.HIBERNATED)

    async def wake(self, sandbox_id: str) -> SandboxReport:
        return await self._to_disk_or_back("wake", sandbox_id, State.RUNNING)

    async def rollback(self, sandbox_id: str, snapshot_id: str) -> SandboxReport:
        if snapshot_id not in self.taken:
            raise NotFound(f"there is no snapshot {snapshot_id}")
        report = await self._to_disk_or_back("rollback", sandbox_id, State.RUNNING)
        self.sandboxes[sandbox_id] = report = replace(report, snapshot_id=snapshot_id)
        return report

    async def restrict(self, sandbox_id: str, egress: Egress) -> None:
        await self.report(sandbox_id)
        if self.fail_move is not None:
            raise self.fail_move
        self.egress[sandbox_id] = egress

    async def snapshot(self, sandbox_id: str, snapshot_id: str) -> SnapshotReport:
        captured = await self._capture(sandbox_id, snapshot_id)
        self.taken.add(snapshot_id)
        return captured

    async def snapshots(self) -> list[str]:
        return sorted(self.taken)

    async def delete_snapshot(self, snapshot_id: str) -> None:
        self.taken.discard(snapshot_id)

    async def fork(self, parent_id: str, specs: Sequence[SandboxSpec]) -> ForkReport:
        self.created.extend(specs)
        captured = await self._capture(parent_id, f"fork-{specs[0].id}")
        children: list[SandboxReport | PlatformError] = []
        for index, spec in enumerate(specs):
            failure = self.fail_children.get(index)
            if failure is None:
                children.append(self._born(spec))
                shutil.copytree(self.guests[parent_id].home, self.guests[spec.id].home, dirs_exist_ok=True)
            else:
                children.append(failure)
        return ForkReport(captured, tuple(children))

    async def _capture(self, sandbox_id: str, snapshot_id: str) -> SnapshotReport:
        if self.gate is not None:
            await self.gate.wait()
        if self.fail_snapshot is not None:
            raise self.fail_snapshot
        report = await self.report(sandbox_id)
        if report.state not in (State.RUNNING, State.PAUSED):
            raise Conflict(f"sandbox {sandbox_id} is {report.state}")
        return SnapshotReport(snapshot_id, report.vcpus, report.memory_mib, 1 << 20, 12.345, 34.5, 1 << 19)

    async def _to_disk_or_back(self, move: str, sandbox_id: str, state: State) -> SandboxReport:
        self.moves.append(move)
        if self.gate is not None:
            await self.gate.wait()
        return self._set(sandbox_id, state)

    def guest(self, sandbox_id: str) -> FakeGuest:
        if self.sandboxes[sandbox_id].state is not State.RUNNING:
            raise Conflict(f"sandbox {sandbox_id} is not running")
        return self.guests[sandbox_id]

    async def usage(self, sandbox_id: str) -> list[Usage]:
        report = await self.report(sandbox_id)
        past = self.past.get(sandbox_id, [])
        return [*past, await self.guests[sandbox_id].usage()] if report.state is State.RUNNING else past

    async def machine_usage(self, sandbox_id: str) -> MachineUsage:
        if (await self.report(sandbox_id)).state is State.HIBERNATED:
            raise Conflict(f"sandbox {sandbox_id} has no running machine", code="not_running")
        return MachineUsage(4711, 12.5, 50.0, 1 << 27, 1 << 30, 5)

    async def wait_change(self) -> str:
        return await self.changes.get()

    async def close(self) -> None:
        self.closed = True

    def die(self, sandbox_id: str, reason: str = "the VMM ended: signal 9") -> None:
        """Let a machine die by itself."""
        report = self.sandboxes[sandbox_id]
        self.sandboxes[sandbox_id] = replace(
            report, state=State.FAILED, failure=reason, console_tail="Kernel panic\nthe last line"
        )
        self.changes.put_nowait(sandbox_id)

    def _set(self, sandbox_id: str, state: State) -> SandboxReport:
        if self.fail_move is not None:
            raise self.fail_move
        report = replace(self.sandboxes[sandbox_id], state=state)
        self.sandboxes[sandbox_id] = report
        return report


def template(name: str, *, aliases: tuple[str, ...] = (), memory_mib: int = 512) -> TemplateReport:
    """A baked template."""
    return TemplateReport(
        name=name,
        snapshot_id=f"snap-{name}",
        vcpus=1,
        memory_mib=memory_mib,
        disk_mib=4096,
        size_bytes=1 << 30,
        rootfs_path="/rootfs.ext4",
        label=name,
        description="",
        category="base",
        base="debian",
        tools=("python3",),
        aliases=aliases,
        built_at="2030-01-01T00:00:00Z",
        envd_version=ENVD_VERSION,
    )


async def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until ``condition`` holds."""
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"never happened: {what}")


@contextmanager
def flat_memory(limit_mib: int) -> Iterator[None]:
    """The block may raise this process's memory by at most ``limit_mib`` at any time."""
    # 5 forgets the highest mark, so that what earlier tests used cannot hide what this block uses.
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_mib()
    yield
    grown = _peak_mib() - before
    assert grown <= limit_mib, f"memory grew by {grown} MiB"


def _peak_mib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM:"))


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


async def _spawn(
    command: Command, env: dict[str, str], cwd: Path
) -> tuple[asyncio.subprocess.Process, dict[_Stream, asyncio.StreamReader], asyncio.StreamWriter | None]:
    """The process, what can be read of it, and the terminal it runs in, if it does."""
    if command.pty is None:
        process = await asyncio.create_subprocess_exec(
            *command.args,
            stdin=asyncio.subprocess.PIPE if command.stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=cwd,
            env=env,
            start_new_session=True,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        return process, {"stdout": process.stdout, "stderr": process.stderr}, None
    master, slave = os.openpty()
    try:
        termios.tcsetwinsize(slave, command.pty[::-1])
        process = await asyncio.create_subprocess_exec(
            *command.args,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=cwd,
            env=env,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
    finally:
        os.close(slave)
    loop = asyncio.get_running_loop()
    transport, flow = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, os.fdopen(master, "wb", buffering=0)
    )
    writer = asyncio.StreamWriter(transport, flow, None, loop)
    return process, {"pty": _terminal_reader(os.dup(master))}, writer


def _terminal_reader(fd: int) -> asyncio.StreamReader:
    """What comes out of a terminal; asyncio's own reader of pipes drops the last of it."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()

    def ready() -> None:
        try:
            data = os.read(fd, PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # nobody holds the terminal any more
        if data:
            reader.feed_data(data)
        else:
            loop.remove_reader(fd)
            os.close(fd)
            reader.feed_eof()

    loop.add_reader(fd, ready)
    return reader


async def _pump(reader: asyncio.StreamReader, name: _Stream, queue: asyncio.Queue[Output | None]) -> None:
    while data := await reader.read(PIECE):
        await queue.put(Output(name, data))
    await queue.put(None)


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _info(place: Path) -> FileInfo:
    facts = place.stat()
    return FileInfo(
        name=place.name,
        path=str(place),
        is_dir=place.is_dir(),
        size=facts.st_size,
        mode=stat.S_IMODE(facts.st_mode),
        mtime=facts.st_mtime,
    )
