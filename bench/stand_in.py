"""A whole platform whose sandboxes are all one guest agent, run on this machine as a plain process.

API, gateway, control plane, store and the guest's client are the real ones, and so is the agent; no microVM is between
them. So what is measured through it is the platform's own path, and the same call straight to the agent is its ceiling.
The agent is never introduced (that would set this machine's clock and name) and runs commands as root.

As a program it serves until it is told to stop: ``stand_in.py DATA_DIR LISTEN PUBLIC CONTROL``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import httpx  # noqa: E402
import uvicorn  # noqa: E402

from pandastackd import log as logging  # noqa: E402
from pandastackd.api import create_app, leads_to_a_port  # noqa: E402
from pandastackd.config import Settings  # noqa: E402
from pandastackd.control import Control  # noqa: E402
from pandastackd.control.keys import AccessTokens  # noqa: E402
from pandastackd.gateway import Gateway, GatewayMiddleware, server_protocol  # noqa: E402
from pandastackd.guest import GuestClient  # noqa: E402
from pandastackd.guest.client import PUBLIC_PORT, Connect  # noqa: E402
from pandastackd.programs import find_program  # noqa: E402
from pandastackd.store import Store  # noqa: E402
from tests.unit.fakes import FakeAgent  # noqa: E402

READY_SECONDS = 60.0


class StandInHost(FakeAgent):
    """A host whose sandboxes share one agent process."""

    def __init__(self, root: Path, public: int, control: int) -> None:
        super().__init__(root)
        self._client = GuestClient(loopback(public, control))

    def guest(self, sandbox_id: str) -> GuestClient:  # type: ignore[override]
        """The one agent's client."""
        return self._client


def loopback(public: int, control: int) -> Connect:
    """Connects to an agent on this machine's loopback, as a slot does to one in a guest."""

    async def connect(port: int) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        try:
            target = public if port == PUBLIC_PORT else control
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", target))
        except BaseException:
            sock.close()
            raise
        return sock

    return connect


@dataclass(frozen=True)
class StandIn:
    """A running platform and its agent.

    Attributes:
        url: of the API.
        key: the first administrator's.
        public, control: ports of the agent's two sides on the loopback.
        folder: where files may be put.
        server_pid, agent_pid: the two processes.
    """

    url: str
    key: str
    public: int
    control: int
    folder: Path
    server_pid: int
    agent_pid: int


@contextmanager
def stand_in() -> Iterator[StandIn]:
    """Start both, and end both with the block. What is written goes to memory where the machine has ``/dev/shm``."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as scratch:
        folder, data = Path(scratch, "files"), Path(scratch, "data")
        folder.mkdir()
        data.mkdir()
        listen, public, control = _free_port(), _free_port(), _free_port()
        agent = subprocess.Popen(
            [
                find_program("guest-agent"),
                *("--public", f"127.0.0.1:{public}", "--control", f"127.0.0.1:{control}"),
                *("--cgroup-root", str(Path(scratch, "none"))),
            ],
            stderr=subprocess.DEVNULL,
        )
        server = subprocess.Popen(
            [sys.executable, __file__, str(data), f"127.0.0.1:{listen}", str(public), str(control)],
            stdout=subprocess.DEVNULL,
            stderr=sys.stderr,
        )
        try:
            url = f"http://127.0.0.1:{listen}"
            _wait_ready(url, server)
            key = (data / "admin.key").read_text().strip()
            yield StandIn(url, key, public, control, folder, server.pid, agent.pid)
        finally:
            for process in (server, agent):
                process.terminate()
                process.wait(30)


def _wait_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/healthz", trust_env=False).is_success:
                return
        time.sleep(0.05)
    raise RuntimeError("the stand-in platform did not start; its last lines say why")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Serve."""
    data_dir, listen, public, control = sys.argv[1:]

    asyncio.run(_serve(Path(data_dir), listen, int(public), int(control)))


async def _serve(data_dir: Path, listen: str, public: int, control: int) -> None:
    """As ``pandastackd serve`` does, without a data directory that could hold machines."""
    settings = Settings(data_dir=data_dir, memory_reserve_mib=0, disk_reserve_mib=0, log_level="warning")
    logging.configure(settings)
    store = await Store.open(f"sqlite+aiosqlite:///{data_dir}/pandastack.db")
    host = StandInHost(data_dir / "guests", public, control)
    plane = await Control(store, host, settings, AccessTokens(os.urandom(32))).prepare(data_dir / "admin.key")
    plane.start()
    gateway = Gateway(plane.traffic)
    address, _, port = listen.partition(":")
    config = uvicorn.Config(
        GatewayMiddleware(create_app(plane, settings), gateway),
        host=address,
        port=int(port),
        http=server_protocol(leads_to_a_port),
        ws="websockets-sansio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
    )
    server = uvicorn.Server(config)
    # Its own way with signals ends the process before what comes after it.
    server.capture_signals = nullcontext  # type: ignore[method-assign,assignment]
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, setattr, server, "should_exit", True)
    await server.serve()
    await plane.close()
    await store.close()


if __name__ == "__main__":
    main()
