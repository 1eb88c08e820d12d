"""Our real HTTP API, control plane and store behind a real uvicorn, over a host without machines."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

from pandastackd.api import create_app
from pandastackd.config import Settings
from pandastackd.control import Control
from pandastackd.control.keys import AccessTokens
from pandastackd.store import Store
from tests.unit.fake_interpreter import fake_interpreter
from tests.unit.fakes import FakeAgent


@contextlib.contextmanager
def fake_platform(folder: Path, *, interpreter: bool = False, **settings: Any) -> Iterator[tuple[str, str]]:
    """Serve in a thread; gives the base URL and the admin key.

    Args:
        interpreter: whether guests have the one of ``fake_interpreter``; else they have none, as in ``base``.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ready, stop = threading.Event(), threading.Event()
        running = _serve(folder, interpreter, settings, listener, ready, stop)
        thread = threading.Thread(target=lambda: asyncio.run(running))
        thread.start()
        try:
            if not ready.wait(60):
                raise RuntimeError("the platform did not start")
            key = (folder / "admin.key").read_text().strip()
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", key
        finally:
            stop.set()
            thread.join(30)


async def _serve(
    folder: Path,
    interpreted: bool,
    changes: dict[str, Any],
    listener: socket.socket,
    ready: threading.Event,
    stop: threading.Event,
) -> None:
    async with fake_interpreter() as interpreter:
        agent = FakeAgent(folder / "guests")
        if interpreted:
            agent.ports[49_999] = interpreter.port
        settings = Settings(data_dir=folder, memory_reserve_mib=0, disk_reserve_mib=0, **changes)
        await _serve_over(agent, settings, listener, ready, stop)


async def _serve_over(
    agent: FakeAgent,
    settings: Settings,
    listener: socket.socket,
    ready: threading.Event,
    stop: threading.Event,
) -> None:
    folder = settings.data_dir
    store = await Store.open(f"sqlite+aiosqlite:///{folder}/pandastack.db")
    control = Control(store, agent, settings, AccessTokens(b"s" * 32))
    await control.prepare(folder / "admin.key")
    control.start()
    app = create_app(control, settings)
    server = uvicorn.Server(
        uvicorn.Config(app, http="httptools", lifespan="off", log_config=None, access_log=False)
    )
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    serving = asyncio.create_task(server.serve([listener]))
    ready.set()
    while not stop.is_set():
        await asyncio.sleep(0.05)
    server.should_exit = server.force_exit = True
    await serving
    await control.close()
    await store.close()
