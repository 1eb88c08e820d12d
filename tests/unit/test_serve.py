"""The life of ``pandastackd serve`` over a host without machines: start, ready, stop; and how it refuses to start.

Needs nothing: preparing the data directory, which may mount, is left out.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from pandastackd.config import Settings
from pandastackd.disk.layout import DataDir
from pandastackd.errors import HostFailure, InvalidRequest
from pandastackd.serve import serve
from tests.unit.fakes import FakeAgent, eventually

pytestmark = pytest.mark.anyio


class Started:
    """A serve() that runs in the test's own loop."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.agent = FakeAgent(folder / "guests")
        self.said: list[str] = []
        settings = Settings(data_dir=folder, log_level="error")
        self.task = asyncio.create_task(
            serve(settings, ["127.0.0.1:0", "127.0.0.1:0"], open_agent=self._open, announce=self.said.append)
        )

    async def _open(self, _settings: Settings, _data: DataDir) -> FakeAgent:
        return self.agent

    async def ready(self) -> list[str]:
        await eventually(lambda: bool(self.said) or self.task.done(), "the server is ready")
        if not self.said:
            await self.task
        return [word.rstrip(",") for word in self.said[0].split() if word.startswith("http://")]


@pytest.fixture(autouse=True)
def no_mounting(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(self: DataDir, **_: Any) -> None:
        self.root.mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(DataDir, "prepare", prepare)


async def test_it_serves_and_stops_in_order(tmp_path: Path) -> None:
    started = Started(tmp_path)
    urls = await started.ready()
    assert len(urls) == 2
    assert str(tmp_path / "admin.key") in started.said[0]
    key = (tmp_path / "admin.key").read_text().strip()
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {key}"}) as client:
        for url in urls:
            assert (await client.get(f"{url}/healthz")).status_code == 200
        made = await client.post(f"{urls[0]}/v1/sandboxes", json={"template": "base"})
        assert made.status_code == 201
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(started.task, 20)
    assert started.agent.closed
    assert made.json()["id"] in started.agent.sandboxes, "sandboxes outlive the server"

    again = Started(tmp_path)
    again.agent.sandboxes = started.agent.sandboxes
    (url, _) = await again.ready()
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {key}"}) as client:
        assert (await client.get(f"{url}/v1/sandboxes/{made.json()['id']}")).json()["status"] == "running"
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.wait_for(again.task, 20)


async def test_a_stop_does_not_wait_for_a_stream_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pandastackd.serve.DRAIN_SECONDS", 1)
    started = Started(tmp_path)
    (url, _) = await started.ready()
    key = (tmp_path / "admin.key").read_text().strip()
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {key}"}, timeout=30) as client:
        made = (await client.post(f"{url}/v1/sandboxes", json={"template": "base"})).json()["id"]
        guest = started.agent.guests[made]
        body = {"cmd": "sleep 1000"}
        async with client.stream("POST", f"{url}/v1/sandboxes/{made}/exec/stream", json=body) as response:
            assert response.status_code == 200
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(started.task, 20)
    assert guest.killed, "its command is killed"


async def test_a_refused_websocket_is_one_line_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    access = Mock()
    monkeypatch.setattr("pandastackd.api.middleware.log", access)
    started = Started(tmp_path)
    (url, _) = await started.ready()
    for path, status in (("/v1/sandboxes/x/ssh", 401), ("/v1/no/such/route", 403)):
        access.reset_mock()
        with pytest.raises(InvalidStatus) as refused:
            async with connect(url.replace("http", "ws") + path, proxy=None):
                pass
        assert refused.value.response.status_code == status
        access.info.assert_called_once()
        assert access.info.call_args.kwargs["path"] == path
        assert access.info.call_args.kwargs["status"] == status
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(started.task, 20)
    assert capsys.readouterr().err == ""


async def test_a_port_in_use_is_one_clear_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(HostFailure, match="something else listens there"):
            await serve(Settings(data_dir=tmp_path / "data"), [address])
    assert not (tmp_path / "data").exists(), "nothing was prepared"


@pytest.mark.parametrize(
    "address", ["8080", "localhost", "1.2.3.4:x", "1.2.3.4:99999", "no.such.host.invalid:1"]
)
async def test_a_bad_address_is_named(tmp_path: Path, address: str) -> None:
    with pytest.raises(InvalidRequest, match=address.partition(":")[0]):
        await serve(Settings(data_dir=tmp_path), [address])


def _command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pandastackd", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


def test_the_command_line_shows_no_traceback(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = _command("serve", "--data-dir", str(tmp_path / "d"), "--listen", address)
    assert done.returncode == 1
    assert done.stderr.startswith(f"pandastackd: cannot listen on {address}")
    assert done.stderr.count("\n") == 1


def test_bad_settings_name_their_variable() -> None:
    done = _command("serve", PANDASTACK_SLOTS_READY="many")
    assert done.returncode == 2
    assert "PANDASTACK_SLOTS_READY" in done.stderr
    assert "Traceback" not in done.stderr


def test_version() -> None:
    done = _command("version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout[0].isdigit()
