"""The gateway as the server runs it: uvicorn on uvloop, in front of the API over a fake host.

A "guest's port" is a server of the test on this machine's loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from pandastackd.api import leads_to_a_port
from pandastackd.control import Control, CreateRequest, Principal
from pandastackd.gateway import Gateway, GatewayMiddleware, server_protocol
from tests.unit.fakes import FakeAgent

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The loop the platform runs on; its transports are not asyncio's own."""
    return "asyncio", {"use_uvloop": True}


@dataclass
class Front:
    """A sandbox behind a running gateway."""

    port: int
    sandbox_id: str
    agent: FakeAgent
    http: httpx.AsyncClient

    def headers(self, port: int) -> dict[str, str]:
        """What sends a request to a port of the sandbox."""
        return {"E2b-Sandbox-Id": self.sandbox_id, "E2b-Sandbox-Port": str(port)}

    async def listen(self, port: int, handler: Handler) -> None:
        """Serve a port of the sandbox until the test ends."""
        server = await asyncio.start_server(handler, "127.0.0.1", 0)
        self.agent.guests[self.sandbox_id].ports[port] = server.sockets[0].getsockname()[1]

    async def raw(self, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the gateway on which ``request`` was sent."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        return reader, writer


@pytest.fixture
async def front(app: FastAPI, control: Control, agent: FakeAgent, admin: Principal) -> AsyncIterator[Front]:
    row = await control.sandboxes.create(admin, CreateRequest(template="base"))
    gateway = Gateway(control.traffic)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            GatewayMiddleware(app, gateway),
            http=server_protocol(leads_to_a_port),
            lifespan="off",
            log_config=None,
            access_log=False,
        )
        server = uvicorn.Server(config)
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
        serving = asyncio.create_task(server.serve([listener]))
        port = listener.getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
            yield Front(port, row.id, agent, http)
        server.should_exit = True
        server.force_exit = True
        await serving
