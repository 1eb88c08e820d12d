"""The QMP client against a server that speaks the protocol's bytes, well and badly."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pandastackd.vmm.qmp import QmpClient, QmpClosed, QmpRefused, QmpTimeout

pytestmark = pytest.mark.anyio

GREETING = b'{"QMP": {"version": {}, "capabilities": ["oob"]}}\r\n'


class FakeQemu:
    """A server that greets, answers what it is told to, and notes what it heard and was handed."""

    def __init__(self, path: Path, greeting: bytes = GREETING) -> None:
        self.path = path
        self.heard: list[str] = []
        self.handed: list[int] = []
        self.answers: dict[str, bytes] = {}
        self._greeting = greeting
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._listener.setblocking(False)
        self.client: socket.socket | None = None
        self._task = asyncio.create_task(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self.client, _ = await loop.sock_accept(self._listener)
            self.client.setblocking(False)
            await loop.sock_sendall(self.client, self._greeting)
            await self._talk(self.client)

    async def _talk(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        pending = b""
        readable = asyncio.Event()
        loop.add_reader(client, readable.set)
        try:
            while True:
                await readable.wait()
                readable.clear()
                try:
                    data, fds, _, _ = socket.recv_fds(client, 65536, 4)
                except BlockingIOError:
                    continue
                self.handed += fds
                if not data:
                    return
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    request = json.loads(line)
                    self.heard.append(request["execute"])
                    answer = self.answers.get(request["execute"], b'{"return": {}, "id": %d}\n')
                    await loop.sock_sendall(client, answer.replace(b"%d", str(request["id"]).encode()))
        finally:
            loop.remove_reader(client)
            client.close()

    async def close(self) -> None:
        """Stop serving; connections end."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._listener.close()
        for fd in self.handed:
            os.close(fd)


@pytest.fixture
async def qemu(tmp_path: Path) -> AsyncIterator[FakeQemu]:
    """A fake QEMU with nothing special about it."""
    fake = FakeQemu(tmp_path / "qmp.sock")
    yield fake
    await fake.close()


async def test_connecting_leaves_negotiation_and_commands_return_values(qemu: FakeQemu) -> None:
    qemu.answers["query-status"] = b'{"return": {"running": false}, "id": %d}\r\n'
    client = await QmpClient.connect(qemu.path, timeout_seconds=5)
    assert await client.execute("query-status") == {"running": False}
    assert qemu.heard == ["qmp_capabilities", "query-status"]
    await client.close()
    await client.close()


async def test_a_refusal_carries_qemus_own_words(qemu: FakeQemu) -> None:
    qemu.answers["cont"] = b'{"error": {"class": "GenericError", "desc": "no such luck"}, "id": %d}\n'
    client = await QmpClient.connect(qemu.path, timeout_seconds=5)
    with pytest.raises(QmpRefused, match="no such luck"):
        await client.execute("cont")
    await client.execute("stop")
    await client.close()


async def test_descriptors_travel_with_a_command(qemu: FakeQemu, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("content")
    client = await QmpClient.connect(qemu.path, timeout_seconds=5)
    with (tmp_path / "state").open("rb") as state:
        await client.execute("getfd", {"fdname": "state"}, fds=(state.fileno(),))
    assert os.read(qemu.handed[0], 100) == b"content"
    await client.close()


async def test_answers_out_of_order_and_split_anywhere_find_their_command(qemu: FakeQemu) -> None:
    qemu.answers["slow"] = b'{"retu'
    qemu.answers["quick"] = b'rn": 1, "id": 2}\n{"return": 2, "id": %d}\n'
    client = await QmpClient.connect(qemu.path, timeout_seconds=5)
    slow, quick = await asyncio.gather(client.execute("slow"), client.execute("quick"))
    assert (slow, quick) == (1, 2)
    await client.close()


async def test_events_reach_those_who_listen_and_only_those(qemu: FakeQemu) -> None:
    event = b'{"event": "MIGRATION", "data": {"status": "completed"}, "timestamp": {}}\n'
    qemu.answers["early"] = qemu.answers["now"] = (
        b'{"event": "STOP"}\n' + event + b'{"return": {}, "id": %d}\n'
    )
    client = await QmpClient.connect(qemu.path, timeout_seconds=5)
    await client.execute("early")
    with client.events("MIGRATION") as events:
        await client.execute("now")
        assert await events.get() == {"status": "completed"}
        assert events.empty()
        await client.close()
        assert await events.get() is None


async def test_a_vmm_that_dies_ends_every_wait(qemu: FakeQemu) -> None:
    qemu.answers["never"] = b""
    client = await QmpClient.connect(qemu.path, timeout_seconds=5)
    with client.events("MIGRATION") as events:
        waiting = asyncio.create_task(client.execute("never"))
        while "never" not in qemu.heard:
            await asyncio.sleep(0)
        await qemu.close()
        with pytest.raises(QmpClosed):
            await waiting
        assert await events.get() is None
    with pytest.raises(QmpClosed):
        await client.execute("query-status")
    await client.close()


async def test_silence_is_a_timeout(qemu: FakeQemu) -> None:
    qemu.answers["never"] = b""
    client = await QmpClient.connect(qemu.path, timeout_seconds=5)
    with pytest.raises(QmpTimeout, match="never"):
        await client.execute("never", timeout_seconds=0.05)
    await client.close()


async def test_nobody_there_is_closed_and_a_mute_one_is_a_timeout(tmp_path: Path) -> None:
    with pytest.raises(QmpClosed):
        await QmpClient.connect(tmp_path / "none.sock", timeout_seconds=1)
    mute = FakeQemu(tmp_path / "mute.sock", greeting=b"")
    with pytest.raises(QmpTimeout):
        await QmpClient.connect(mute.path, timeout_seconds=0.05)
    await mute.close()


@pytest.mark.parametrize(
    "garbage",
    [b"hello\n", b"[1, 2]\n", b"\xff\xfe\n", b"[" * 100_000 + b"\n", b'{"return": ' + b"9" * 5000 + b"}\n"],
    ids=["no-json", "no-object", "no-text", "deep", "huge-number"],
)
async def test_what_is_not_qmp_ends_the_connection_and_nothing_else(qemu: FakeQemu, garbage: bytes) -> None:
    qemu.answers["query-status"] = garbage
    client = await QmpClient.connect(qemu.path, timeout_seconds=5)
    with pytest.raises(QmpClosed):
        await client.execute("query-status", timeout_seconds=5)
    await client.close()


async def test_a_line_without_end_is_cut_off(qemu: FakeQemu) -> None:
    qemu.answers["query-status"] = b"x" * (5 << 20)
    client = await QmpClient.connect(qemu.path, timeout_seconds=5)
    with pytest.raises(QmpClosed, match="without end"):
        await client.execute("query-status", timeout_seconds=10)
    await client.close()


async def test_answers_to_nobody_are_ignored(qemu: FakeQemu) -> None:
    stray = b'{"return": 1}\n{"return": 1, "id": 999}\n{"error": "x", "id": "y"}\n{"event": 5}\n\n'
    qemu.answers["query-status"] = stray + b'{"return": 2, "id": %d}\n'
    client = await QmpClient.connect(qemu.path, timeout_seconds=5)
    assert await client.execute("query-status") == 2
    await client.close()


async def test_paths_longer_than_an_address_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.chdir(folder)
    fake = FakeQemu(Path("qmp.sock"))
    client = await QmpClient.connect(folder / "qmp.sock", timeout_seconds=5)
    await client.execute("query-status")
    await client.close()
    await fake.close()
