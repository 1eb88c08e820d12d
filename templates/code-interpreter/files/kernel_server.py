"""The hot Python kernel of the code-interpreter template, served on port 49999.

    GET    /health                   200 once the first kernel has run a cell
    POST   /execute                  {code, context_id?, language?, env_vars?} → one JSON event a line
    GET    /contexts                 list of {id, language, cwd}
    POST   /contexts                 {cwd?, language?} → {id, language, cwd}
    DELETE /contexts/{id}            204
    POST   /contexts/{id}/restart    204

A context is one kernel: a Python process that keeps its variables from cell to cell and runs one cell at a
time. The first context, ``default``, is started and warmed before this server listens, so that a machine
frozen when ``/health`` answers has a kernel in it with everything imported.

Kernel and server talk over sockets in the file system, never over the network, so they neither need one nor
lose one when a copy of the machine wakes up elsewhere. Such a copy has another machine-id: then the kernel's
random generators are seeded anew before its next cell, for siblings must not draw the same numbers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import tornado.iostream
import tornado.web
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager

PORT = 49_999
DEFAULT = "default"
LANGUAGE = "python"
MOST_CONTEXTS = 32
KEEPALIVE_SECONDS = 5.0
START_SECONDS = 120.0
INTERRUPT_SECONDS = 10.0
POLL_SECONDS = 0.5
MACHINE_ID = Path("/etc/machine-id")

WARM_CELL = """
def _warm():
    import io
    import matplotlib.pyplot as plt
    import numpy, pandas
    figure, axes = plt.subplots()
    axes.plot(numpy.arange(3))
    figure.savefig(io.BytesIO(), format="png")
    plt.close(figure)
    repr(pandas.DataFrame({"a": [1, 2]}))
_warm()
del _warm
"""
RESEED_CELL = """
def _reseed():
    import os, random, ssl, sys
    random.seed()
    ssl.RAND_add(os.urandom(32), 32.0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
_reseed()
del _reseed
"""
SET_ENV_CELL = "__import__('os').environ.update(__import__('json').loads({!r}))"
RESTORE_ENV_CELL = """
def _restore(environ, values):
    for name, value in values.items():
        if value is None:
            environ.pop(name, None)
        else:
            environ[name] = value
_restore(__import__('os').environ, __import__('json').loads({!r}))
del _restore
"""

RESULT_KEYS = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "text/latex": "latex",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "application/json": "json",
    "application/javascript": "javascript",
    "e2b/data": "data",
    "e2b/chart": "chart",
}

Event = dict[str, Any]


class KernelDiedError(Exception):
    """The kernel's process ended while it was needed."""


class Context:
    """One kernel and the lock that makes its cells run one after the other."""

    def __init__(self, identity: str, cwd: str, sockets: Path) -> None:
        self.id = identity
        self.cwd = cwd
        self.lock = asyncio.Lock()
        self._folder = sockets / identity
        self._machine_id = machine_id()
        self._environment = dict(os.environ)
        self._manager: AsyncKernelManager
        self._client: AsyncKernelClient

    def described(self) -> dict[str, str]:
        """The context as the API shows it."""
        return {"id": self.id, "language": LANGUAGE, "cwd": self.cwd}

    async def start(self) -> None:
        """Starts the kernel and returns once it answers."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o700)
        self._manager = AsyncKernelManager(
            transport="ipc",
            ip=str(self._folder / "socket"),
            connection_file=str(self._folder / "connection.json"),
        )
        await self._manager.start_kernel(cwd=self.cwd, env=self._environment)
        self._client = self._manager.client()
        self._client.start_channels(hb=False, control=False, stdin=False)
        # The client's own wait needs a heartbeat channel; a first empty cell tells as much.
        await self.run_silently("")

    async def stop(self) -> None:
        """Ends the kernel and removes what it leaves."""
        self._client.stop_channels()
        await self._manager.shutdown_kernel(now=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def restart(self) -> None:
        """Replaces the kernel by a fresh one."""
        await self.stop()
        await self.start()

    async def interrupt(self) -> None:
        """Stops the running cell as Ctrl-C does."""
        if await self._manager.is_alive():
            await self._manager.interrupt_kernel()

    async def execute(self, code: str, variables: dict[str, str]) -> AsyncIterator[Event]:
        """Runs one cell under the lock; yields what happens, and a keepalive when nothing does."""
        await self._become_unique()
        before = {name: self._environment.get(name) for name in variables}
        if variables:
            await self.run_silently(SET_ENV_CELL.format(json.dumps(variables)))
        try:
            async for event in self._cell(code, silent=False):
                yield event
        finally:
            if variables and await self._manager.is_alive():
                await self.run_silently(RESTORE_ENV_CELL.format(json.dumps(before)))

    async def run_silently(self, code: str) -> None:
        """Runs a cell of our own, which leaves no trace in the history.

        Raises:
            RuntimeError: it raised; the traceback is in the message.
        """
        async with asyncio.timeout(START_SECONDS):
            async for event in self._cell(code, silent=True):
                if event["type"] == "error":
                    raise RuntimeError(event["traceback"])

    async def settle(self) -> None:
        """After a cell was abandoned: interrupts it, and replaces a kernel that does not heed that."""
        try:
            await self.interrupt()
            async with asyncio.timeout(INTERRUPT_SECONDS):
                await self.run_silently("")
        except (TimeoutError, KernelDiedError, RuntimeError):
            await self.restart()

    async def _become_unique(self) -> None:
        present = machine_id()
        if present != self._machine_id:
            await self.run_silently(RESEED_CELL)
            self._machine_id = present

    async def _cell(self, code: str, *, silent: bool) -> AsyncIterator[Event]:
        request = self._client.execute(code, silent=silent, store_history=not silent, allow_stdin=False)
        spoken = time.monotonic()
        answered = False
        while True:
            try:
                message = await self._client.get_iopub_msg(timeout=POLL_SECONDS)
            except queue.Empty:
                # The kernel drops output that nobody takes in time, the word that it is done included; its
                # answer on the other channel is never dropped.
                if answered:
                    return
                answered = await self._answered(request)
                if not answered and not await self._manager.is_alive():
                    raise KernelDiedError from None
                if not silent and time.monotonic() - spoken >= KEEPALIVE_SECONDS:
                    spoken = time.monotonic()
                    yield {"type": "keepalive"}
                continue
            if message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["header"]["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                # Answers that nobody takes would fill the channel up.
                await self._answered(request)
                return
            event = translated(kind, content, message["header"]["date"].isoformat())
            if event is not None:
                spoken = time.monotonic()
                yield event

    async def _answered(self, request: str) -> bool:
        with contextlib.suppress(queue.Empty):
            while True:
                reply = await self._client.get_shell_msg(timeout=0)
                if reply["parent_header"].get("msg_id") == request:
                    return True
        return False


def translated(kind: str, content: dict[str, Any], timestamp: str) -> Event | None:
    """One message of the kernel as an event of ours; None for those that nobody asked for."""
    match kind:
        case "execute_input":
            return {"type": "number_of_executions", "execution_count": content["execution_count"]}
        case "stream":
            return {"type": content["name"], "text": content["text"], "timestamp": timestamp}
        case "error":
            traceback = "\n".join(content["traceback"])
            return {
                "type": "error",
                "name": content["ename"],
                "value": content["evalue"],
                "traceback": traceback,
            }
        case "execute_result" | "display_data":
            known = {RESULT_KEYS[mime]: data for mime, data in content["data"].items() if mime in RESULT_KEYS}
            extra = {mime: data for mime, data in content["data"].items() if mime not in RESULT_KEYS}
            more = {"extra": extra} if extra else {}
            return {"type": "result", **known, **more, "is_main_result": kind == "execute_result"}
    return None


def machine_id() -> str:
    """What tells this machine from its siblings; empty where it has not been told yet."""
    try:
        return MACHINE_ID.read_text().strip()
    except OSError:
        return ""


class Contexts:
    """All contexts of the machine."""

    def __init__(self, sockets: Path) -> None:
        self._sockets = sockets
        self._contexts: dict[str, Context] = {}

    async def open(self, cwd: str, identity: str | None = None) -> Context:
        """Starts a kernel in a folder.

        Raises:
            tornado.web.HTTPError: there are too many, or the folder does not exist.
        """
        if len(self._contexts) >= MOST_CONTEXTS:
            raise tornado.web.HTTPError(429, f"there are {MOST_CONTEXTS} contexts already; delete one first")
        if not await asyncio.to_thread(Path(cwd).is_dir):
            raise tornado.web.HTTPError(400, f"cwd {cwd} is no folder of this sandbox")
        context = Context(identity or secrets.token_hex(8), cwd, self._sockets)
        await context.start()
        self._contexts[context.id] = context
        return context

    def find(self, identity: str) -> Context:
        """The context with this id.

        Raises:
            tornado.web.HTTPError: there is none.
        """
        try:
            return self._contexts[identity]
        except KeyError:
            raise tornado.web.HTTPError(404, f"context {identity} does not exist") from None

    async def close(self, identity: str) -> None:
        """Ends a context and its kernel."""
        context = self.find(identity)
        del self._contexts[identity]
        await context.stop()

    def all(self) -> list[Context]:
        """Every context, the oldest first."""
        return list(self._contexts.values())


class Handler(tornado.web.RequestHandler):
    """What all resources share: JSON in, JSON out, errors that say what is wrong."""

    def initialize(self, contexts: Contexts) -> None:
        self.contexts = contexts

    def write_error(self, status_code: int, **details: Any) -> None:
        """One line of JSON instead of a page."""
        error = details.get("exc_info", (None, None, None))[1]
        message = getattr(error, "log_message", None) or self._reason
        self.finish({"code": status_code, "message": message})

    def body(self) -> dict[str, Any]:
        """The request's JSON object; an empty body is an empty object."""
        try:
            content = json.loads(self.request.body or b"{}")
        except ValueError:
            raise tornado.web.HTTPError(400, "the body is no JSON") from None
        if not isinstance(content, dict):
            raise tornado.web.HTTPError(400, "the body is no JSON object")
        if (content.get("language") or LANGUAGE).lower() != LANGUAGE:
            raise tornado.web.HTTPError(
                400, f"language {content['language']} is not supported; only python is"
            )
        return content


class Health(Handler):
    def get(self) -> None:
        self.finish("OK")


class ContextList(Handler):
    def get(self) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps([context.described() for context in self.contexts.all()]))

    async def post(self) -> None:
        context = await self.contexts.open(self.body().get("cwd") or str(Path.home()))
        self.set_status(201)
        self.finish(context.described())


class OneContext(Handler):
    async def delete(self, identity: str) -> None:
        await self.contexts.close(identity)
        self.set_status(204)


class Restart(Handler):
    async def post(self, identity: str) -> None:
        context = self.contexts.find(identity)
        await context.interrupt()
        async with context.lock:
            await context.restart()
        self.set_status(204)


class Execute(Handler):
    """Runs a cell; a client that goes away interrupts it."""

    def prepare(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def on_connection_close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def post(self) -> None:
        body = self.body()
        code, variables = body.get("code"), body.get("env_vars") or {}
        if not isinstance(code, str):
            raise tornado.web.HTTPError(400, "code is missing or no text")
        if not all(isinstance(value, str) for value in variables.values()):
            raise tornado.web.HTTPError(400, "env_vars maps names to texts")
        context = self.contexts.find(body.get("context_id") or DEFAULT)
        self.set_header("Content-Type", "application/x-ndjson")
        self._task = asyncio.create_task(self._run(context, code, variables))
        with contextlib.suppress(asyncio.CancelledError, tornado.iostream.StreamClosedError):
            await self._task

    async def _run(self, context: Context, code: str, variables: dict[str, str]) -> None:
        async with context.lock:
            try:
                async with contextlib.aclosing(context.execute(code, variables)) as events:
                    async for event in events:
                        await self._send(event)
                await self._send({"type": "end_of_execution"})
            except KernelDiedError:
                await context.restart()
                await self._send({"type": "unexpected_end_of_execution"})
            except (asyncio.CancelledError, tornado.iostream.StreamClosedError):
                # The lock is kept until the kernel is free again: the next cell must not meet this one's
                # remains.
                await asyncio.shield(context.settle())
                raise

    async def _send(self, event: Event) -> None:
        self.write(json.dumps(event, ensure_ascii=False) + "\n")
        await self.flush()


async def main() -> None:
    """Warms the first kernel, then serves until told to end."""
    with tempfile.TemporaryDirectory(prefix="kernels-") as sockets:
        contexts = Contexts(Path(sockets))
        first = await contexts.open(str(Path.home()), DEFAULT)
        await first.run_silently(WARM_CELL)
        given = {"contexts": contexts}
        application = tornado.web.Application(
            [
                (r"/health", Health, given),
                (r"/execute", Execute, given),
                (r"/contexts", ContextList, given),
                (r"/contexts/([A-Za-z0-9-]+)", OneContext, given),
                (r"/contexts/([A-Za-z0-9-]+)/restart", Restart, given),
            ]
        )
        server = application.listen(PORT)
        end = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, end.set)
        await end.wait()
        server.stop()
        for context in contexts.all():
            await contexts.close(context.id)


if __name__ == "__main__":
    asyncio.run(main())
