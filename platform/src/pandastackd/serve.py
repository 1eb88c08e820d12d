"""``pandastackd serve``: everything on one machine, put together here and nowhere else.

Read it as the life of the process: prepare, open, serve, close. What was opened last is closed first, and
each close has a bound. Sandboxes outlive all of it.
"""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import structlog
import uvicorn

from pandastackd import log as logging
from pandastackd.agent.agent import Agent
from pandastackd.api import create_app, leads_to_a_port
from pandastackd.config import Settings
from pandastackd.control import Control, HostAgent
from pandastackd.control.keys import AccessTokens
from pandastackd.disk.layout import DataDir
from pandastackd.errors import HostFailure, InvalidRequest
from pandastackd.gateway import Gateway, GatewayMiddleware, server_protocol
from pandastackd.store import Store
from pandastackd.template.library import TemplateLibrary

log = structlog.get_logger(__name__)

DRAIN_SECONDS = 10
"""How long requests under way get at shutdown; after that they are cut off, and their commands killed."""

WS_MESSAGE_BYTES = 1024 * 1024
"""Largest message of a client on a WebSocket of ours; what is for a sandbox's ports is not looked at."""

WS_PATIENCE_SECONDS = 90.0
"""A client that answers no ping this long is gone. Longer than the guest may take to accept input: until then nothing
more is read of the client, pongs neither."""


class ClosableAgent(HostAgent, Protocol):
    """An agent that this process opened and must close."""

    async def close(self) -> None:
        """Let go of everything; sandboxes go on running."""


OpenAgent = Callable[[Settings, DataDir], Awaitable[ClosableAgent]]


async def open_agent_with_templates(settings: Settings, data: DataDir) -> Agent:
    """This host's agent, once every template is baked; what cannot be baked is told and left out.

    Raises:
        PlatformError: the agent cannot start, or a recipe is wrong.
    """
    agent = await Agent.open(settings, data)
    try:
        await TemplateLibrary.of(agent.rooms, _show_progress).bake_missing()
    except BaseException:
        await agent.close()
        raise
    return agent


def _show_progress(step: str, detail: str) -> None:
    print(f"==> template {step}: {detail}", flush=True)


async def serve(
    settings: Settings,
    listen: Sequence[str],
    *,
    open_agent: OpenAgent = open_agent_with_templates,
    announce: Callable[[str], None] = print,
) -> None:
    """Run the whole platform until SIGTERM or SIGINT.

    Args:
        listen: addresses as ``HOST:PORT``; port 0 takes any free one.
        open_agent: makes the host's agent.
        announce: told once, in words for people, where the platform is ready.

    Raises:
        PlatformError: it cannot start; says why and what to do.
    """
    logging.configure(settings)
    async with AsyncExitStack() as stack:
        # Sockets first: a port in use must be known before anything is prepared.
        sockets = [stack.enter_context(_bound(address)) for address in listen]
        data = DataDir(settings.data_dir)
        await asyncio.to_thread(
            data.prepare, image_gib=settings.data_image_gib, reserve_mib=settings.disk_reserve_mib
        )
        stack.callback(data.release)

        store = await Store.open(settings.database_url or f"sqlite+aiosqlite:///{data.database}")
        stack.push_async_callback(store.close)

        agent = await open_agent(settings, data)
        stack.push_async_callback(agent.close)

        tokens = await asyncio.to_thread(AccessTokens.from_file, data.secret_key)
        control = await Control(store, agent, settings, tokens).prepare(data.admin_key)
        stack.push_async_callback(control.close)
        control.start()

        # Spooled output belongs on the data disk, whatever way the directory was spelled.
        gateway = Gateway(control.traffic)
        app = create_app(control, settings.model_copy(update={"data_dir": data.root}), gateway=gateway)
        server = _Server(
            uvicorn.Config(
                # Around the API: what a sandbox answers is its own, down to the headers.
                GatewayMiddleware(app, gateway),
                http=server_protocol(leads_to_a_port),
                ws="websockets-sansio",
                ws_max_size=WS_MESSAGE_BYTES,
                ws_ping_timeout=WS_PATIENCE_SECONDS,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=DRAIN_SECONDS,
            )
        )
        server.on_ready = lambda: announce(_ready(sockets, data.admin_key))
        await server.serve(sockets)
    log.info("stopped")


class _Server(uvicorn.Server):
    """uvicorn, told to stop by signals without dying of them: what comes after it must still be closed."""

    on_ready: Callable[[], None]

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except OSError as error:
            # Another process that was bound to the same port began to listen first.
            raise _cannot_listen(", ".join(_shown(each) for each in sockets or []), error) from error
        self.on_ready()

    def _stop(self, number: signal.Signals) -> None:
        log.info("stopping", signal=number.name, again="stops without waiting for requests")
        self.force_exit = self.should_exit
        self.should_exit = True


@contextmanager
def _bound(address: str) -> Iterator[socket.socket]:
    host, port = _split(address)
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InvalidRequest(f"cannot listen on {address}: {error.strerror or error}") from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(where)
        except OSError as error:
            raise _cannot_listen(address, error) from error
        listener.setblocking(False)
        yield listener


def _cannot_listen(address: str, error: OSError) -> HostFailure:
    remedy = {
        errno.EADDRINUSE: "something else listens there; stop it, or choose another --listen",
        errno.EADDRNOTAVAIL: "this machine has no such address; choose another --listen",
        errno.EACCES: "ports below 1024 need root",
    }.get(error.errno or 0, "choose another --listen")
    return HostFailure(f"cannot listen on {address}: {error.strerror}; {remedy}", code="cannot_listen")


def _split(address: str) -> tuple[str, int]:
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdecimal() or int(port) > 65535:
        raise InvalidRequest(f"--listen {address!r} is not HOST:PORT, such as 127.0.0.1:8080")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - what an address without a host means


def _ready(sockets: Sequence[socket.socket], admin_key: Path) -> str:
    urls = ", ".join(f"http://{_shown(listener)}" for listener in sockets)
    return f"PandaStack is ready on {urls}  (admin key: {admin_key}, docs: /docs)"


def _shown(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
