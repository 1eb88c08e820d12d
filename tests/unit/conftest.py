"""A control plane over a fake host, and the HTTP API over it; both without machines or sockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import structlog
import uvicorn
from fastapi import FastAPI

from pandastackd.api import create_app
from pandastackd.config import Settings
from pandastackd.control import Control
from pandastackd.control.keys import AccessTokens, Principal
from pandastackd.store import Store
from tests.unit.fakes import FakeAgent, TurnableClock


@pytest.fixture(autouse=True, scope="session")
def quiet() -> None:
    """Nothing is logged: the default renderer draws every traceback with all local variables, in seconds."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


@pytest.fixture
def clock() -> TurnableClock:
    return TurnableClock()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, disk_reserve_mib=0, memory_reserve_mib=0)


@pytest.fixture
def agent(tmp_path: Path) -> FakeAgent:
    return FakeAgent(tmp_path / "guests")


@pytest.fixture(scope="session")
async def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database with today's schema, for tests to copy: migrating one a test would take most of the time."""
    file = tmp_path_factory.mktemp("migrated") / "test.db"
    store = await Store.open(f"sqlite+aiosqlite:///{file}")
    await store.close()
    return file


@pytest.fixture
async def store(migrated: Path, tmp_path: Path) -> AsyncIterator[Store]:
    shutil.copyfile(migrated, tmp_path / "test.db")
    store = await Store.open(f"sqlite+aiosqlite:///{tmp_path}/test.db")
    yield store
    await store.close()


@pytest.fixture
async def control(
    store: Store, agent: FakeAgent, settings: Settings, clock: TurnableClock, tmp_path: Path
) -> AsyncIterator[Control]:
    control = Control(store, agent, settings, AccessTokens(b"s" * 32), now=clock)
    await control.prepare(tmp_path / "admin.key")
    yield control
    await control.close(timeout_seconds=5)


@pytest.fixture
async def admin(control: Control, tmp_path: Path) -> Principal:
    return await control.keys.authenticate((tmp_path / "admin.key").read_text())


@pytest.fixture
async def stranger(control: Control, store: Store, clock: TurnableClock) -> str:
    """The key of another workspace, one that is even called admin."""
    await store.keys.ensure_workspace("other", name="admin", now=clock())
    secret, _ = await control.keys.create(Principal("other", "", ""), label="x")
    return secret


@pytest.fixture(scope="session")
def routes() -> FastAPI:
    """The application without a control plane: its routes are the same for every test, and slow to make."""
    return create_app(None, Settings())  # type: ignore[arg-type]


@pytest.fixture
def app(routes: FastAPI, control: Control, settings: Settings) -> FastAPI:
    routes.state.control, routes.state.settings = control, settings
    return routes


@pytest.fixture
async def http(app: FastAPI, admin: Principal, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the admin key."""
    key = (tmp_path / "admin.key").read_text().strip()
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://test",
        headers={"Authorization": f"Bearer {key}"},
    ) as client:
        yield client


@pytest.fixture
async def live(app: FastAPI, admin: Principal, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The same app behind a real uvicorn on loopback: for streams, disconnects and bytes on the wire."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, http="httptools", lifespan="off", log_config=None, access_log=False)
        server = uvicorn.Server(config)
        # Serving as the command does, but for signals, which belong to pytest.
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
        serving = asyncio.create_task(server.serve([listener]))
        key = (tmp_path / "admin.key").read_text().strip()
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{listener.getsockname()[1]}",
            headers={"Authorization": f"Bearer {key}"},
            timeout=60,
        ) as client:
            yield client
        server.should_exit = True
        server.force_exit = True
        await serving
