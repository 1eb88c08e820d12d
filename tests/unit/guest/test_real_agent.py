"""GuestClient against the real agent, started as a plain process on the loopback of this machine.

Needs root (the agent acts as any user) and a built `guest-agent`. No VM.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from pandastackd.errors import (
    CommandTimeout,
    Conflict,
    GuestUnreachable,
    InsufficientStorage,
    InvalidRequest,
    NotFound,
    PlatformError,
)
from pandastackd.guest import Command, Ended, Event, GuestClient, Output, Started
from pandastackd.programs import find_program

pytestmark = [pytest.mark.anyio, pytest.mark.needs("root")]


def _agent() -> Path | None:
    try:
        return find_program("guest-agent")
    except PlatformError:
        return None


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """The control address of a running agent."""
    program = _agent()
    if program is None:
        pytest.skip("needs guest-agent: `make setup` builds it")
    ports = []
    for _ in range(2):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            ports.append(sock.getsockname()[1])
    process = subprocess.Popen(
        [
            program,
            "--public", f"127.0.0.1:{ports[0]}",
            "--control", f"127.0.0.1:{ports[1]}",
            "--cgroup-root", str(tmp_path_factory.mktemp("cgroup")),
        ]
    )  # fmt: skip
    yield "127.0.0.1", ports[1]
    process.kill()
    process.wait()


@pytest.fixture
async def client(address: tuple[str, int]) -> AsyncIterator[GuestClient]:
    async def connect(port: int) -> socket.socket:
        del port
        sock = socket.socket()
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, address)
        except BaseException:
            sock.close()
            raise
        return sock

    async with GuestClient(connect) as client:
        await client.ping(deadline_seconds=20)
        yield client


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that any user may enter."""
    path = Path(f"/tmp/pandastack-test-{os.getpid()}")
    path.mkdir(mode=0o777)
    yield path
    shutil.rmtree(path)


def sh(script: str, **more: object) -> Command:
    return Command(("/bin/sh", "-c", script), user="root", **more)  # type: ignore[arg-type]


async def test_a_command_has_output_errors_code_and_environment(client: GuestClient) -> None:
    result = await client.run(sh("echo $A; pwd; echo é >&2; exit 7", env={"A": "x y"}, cwd="/usr"))
    assert (result.stdout, result.stderr, result.exit_code) == (b"x y\n/usr\n", "é\n".encode(), 7)


async def test_a_killed_command_says_by_which_signal(client: GuestClient) -> None:
    async with aclosing(client.start(sh("kill -TERM $$"))) as events:
        last = [event async for event in events][-1]
    assert last == Ended(143, "SIGTERM")


async def test_a_program_that_is_not_there(client: GuestClient) -> None:
    with pytest.raises((NotFound, InvalidRequest)):
        await client.run(Command(("/no/such/program",), user="root"))


async def test_a_user_who_is_not_there_is_no_matter_of_keys(client: GuestClient) -> None:
    with pytest.raises(InvalidRequest, match="nobody-here"):
        await client.run(Command(("true",), user="nobody-here"))


async def test_a_timeout_kills_the_children_too(client: GuestClient) -> None:
    seen: list[Event] = []

    async def follow() -> None:
        async with aclosing(client.start(sh("sleep 3131 & echo $!; wait", timeout_seconds=0.5))) as events:
            async for event in events:
                seen.append(event)  # noqa: PERF401 - what came before the error is wanted

    with pytest.raises(CommandTimeout):
        await follow()
    pid = next(int(event.data) for event in seen if isinstance(event, Output))
    for _ in range(200):
        if not Path(f"/proc/{pid}").exists():
            break
        await asyncio.sleep(0.02)
    assert not Path(f"/proc/{pid}").exists()


async def test_input_signals_lists_and_reattaching(client: GuestClient) -> None:
    async with aclosing(client.start(sh("cat", stdin=True, tag="the cat"))) as events:
        started = await anext(events)
        assert isinstance(started, Started)
        await client.send_input(started.pid, b"one\n")
        assert await anext(events) == Output("stdout", b"one\n")
    listed = {process.pid: process for process in await client.processes()}
    assert listed[started.pid].tag == "the cat"
    async with aclosing(client.attach("the cat")) as events:
        assert await anext(events) == Started(started.pid)
        assert await anext(events) == Output("stdout", b"one\n")
        await client.send_input(started.pid, b"two\n")
        assert await anext(events) == Output("stdout", b"two\n")
        await client.close_stdin(started.pid)
        assert await anext(events) == Ended(0)
    with pytest.raises(NotFound):
        await client.signal(started.pid, "SIGKILL")


async def test_a_signal_ends_it(client: GuestClient) -> None:
    async with aclosing(client.start(sh("sleep 1000"))) as events:
        started = await anext(events)
        assert isinstance(started, Started)
        await client.signal(started.pid, "SIGKILL")
        assert await anext(events) == Ended(137, "SIGKILL")


async def test_a_terminal(client: GuestClient) -> None:
    async with aclosing(client.start(sh("stty size; read x; stty size", pty=(101, 33)))) as events:
        started = await anext(events)
        assert isinstance(started, Started)
        seen = b""
        while b"33 101" not in seen:
            event = await anext(events)
            assert isinstance(event, Output)
            seen += event.data
        await client.resize(started.pid, 55, 44)
        await client.send_input(started.pid, b"\n", pty=True)
        async for event in events:
            if isinstance(event, Output):
                seen += event.data
    assert b"44 55" in seen


async def test_endless_output_can_be_left(client: GuestClient) -> None:
    total = 0
    async with aclosing(client.start(sh("yes"))) as events:
        started = await anext(events)
        assert isinstance(started, Started)
        async for event in events:
            assert isinstance(event, Output)
            total += len(event.data)
            if total > 20_000_000:
                break
    await client.signal(started.pid, "SIGKILL")


async def test_files_travel_whole(client: GuestClient, folder: Path) -> None:
    piece = os.urandom(1 << 20)
    pieces = 64

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(pieces):
            yield piece

    path = f"{folder}/under/a new/ földer \u2028/f+ile&x=1"
    written = await client.write(path, chunks(), user="root")
    assert (written.size, written.name) == (pieces << 20, "f+ile&x=1")
    assert Path(path).read_bytes() == piece * pieces
    digest, expected = hashlib.sha256(), hashlib.sha256(piece * pieces)
    async with client.read(path, user="root") as reader:
        assert reader.size == pieces << 20
        async for chunk in reader.chunks:
            digest.update(chunk)
    assert digest.digest() == expected.digest()
    info = await client.stat(path, user="root")
    assert (info.size, info.is_dir, info.mtime > 1.7e9) == (pieces << 20, False, True)


async def test_an_empty_file_is_a_file(client: GuestClient, folder: Path) -> None:
    await client.write(f"{folder}/empty", b"", user="root")
    async with client.read(f"{folder}/empty", user="root") as reader:
        assert [chunk async for chunk in reader.chunks] == []
    assert (await client.stat(f"{folder}/empty", user="root")).size == 0


async def test_a_download_may_be_left_half_way(client: GuestClient, folder: Path) -> None:
    await client.write(f"{folder}/big", b"x" * (8 << 20), user="root")
    async with client.read(f"{folder}/big", user="root") as reader:
        await anext(reader.chunks)
    await client.ping(deadline_seconds=5)


async def test_folders(client: GuestClient, folder: Path) -> None:
    made = await client.make_dir(f"{folder}/a/b", user="root")
    assert made.is_dir
    with pytest.raises(Conflict):
        await client.make_dir(f"{folder}/a/b", user="root")
    await client.write(f"{folder}/a/f", b"12345", user="root")
    names = {
        (entry.name, entry.is_dir, entry.size if not entry.is_dir else 0)
        for entry in await client.list_dir(f"{folder}/a", user="root")
    }
    assert names == {("b", True, 0), ("f", False, 5)}
    await client.move(f"{folder}/a/f", f"{folder}/g", user="root")
    await client.remove(f"{folder}/a", user="root")
    assert sorted(path.name for path in folder.iterdir()) == ["g"]


async def test_what_is_not_there_is_not_found(client: GuestClient, folder: Path) -> None:
    missing = f"{folder}/missing"
    with pytest.raises(NotFound):
        await client.stat(missing, user="root")
    with pytest.raises(NotFound):
        await client.list_dir(missing, user="root")
    with pytest.raises(NotFound):
        await client.remove(missing, user="root")
    (folder / "dangling").symlink_to(missing)
    await client.remove(f"{folder}/dangling", user="root")
    assert not (folder / "dangling").is_symlink()
    with pytest.raises(NotFound):
        async with client.read(missing, user="root"):
            pass
    with pytest.raises(InvalidRequest):
        async with client.read(str(folder), user="root"):
            pass
    with pytest.raises(NotFound):
        await client.attach(2**31 - 1).__anext__()


async def test_a_full_disk_is_said_to_be_full(client: GuestClient, folder: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=777", "none", str(folder)], check=True)
    try:

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(64):
                yield b"x" * (1 << 20)

        with pytest.raises(InsufficientStorage):
            await client.write(f"{folder}/f", chunks(), user="root")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


async def test_a_path_with_nul_is_refused(client: GuestClient) -> None:
    with pytest.raises(InvalidRequest):
        await client.stat("/tmp/a\0b", user="root")


async def test_logs_tell_what_was_printed(client: GuestClient) -> None:
    await client.run(sh("echo to-out; echo to-err >&2"))
    lines = [line async for line in client.logs(tail=1000)]
    assert {("stdout", "to-out"), ("stderr", "to-err")} <= {(line.stream, line.line) for line in lines}
    async with aclosing(client.logs("stdout", follow=True, tail=0)) as follower:
        ahead = asyncio.ensure_future(anext(follower))
        await asyncio.sleep(0.1)
        await client.run(sh("echo later"))
        assert (await asyncio.wait_for(ahead, 10)).line == "later"


async def test_a_tunnel_reaches_a_server_inside(client: GuestClient) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello ")
        writer.write((await reader.readexactly(4)).upper())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    sock = await client.tunnel(port)
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_sendall(sock, b"ping")
        data = b""
        while chunk := await loop.sock_recv(sock, 100):
            data += chunk
    finally:
        sock.close()
        server.close()
    assert data == b"hello PING"
    with pytest.raises(NotFound):
        await client.tunnel(1)


async def test_many_streams_at_once(client: GuestClient) -> None:
    results = await asyncio.gather(*(client.run(sh(f"sleep 0.2; echo {n}")) for n in range(40)))
    assert [result.stdout for result in results] == [f"{n}\n".encode() for n in range(40)]


async def test_closing_the_client_ends_its_streams(client: GuestClient) -> None:
    events = client.start(sh("sleep 30"))
    assert isinstance(await anext(events), Started)
    ahead = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0.05)
    await client.aclose()
    with pytest.raises(GuestUnreachable):
        await asyncio.wait_for(ahead, 5)
    with pytest.raises(GuestUnreachable, match="given up"):
        await client.processes()
