"""One kernel: a process that speaks the Jupyter protocol, and the sockets to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from interpreter.languages import Language
from interpreter.results import Event, Translator

START_SECONDS = 240.0
POLL_SECONDS = 0.5


class KernelDiedError(Exception):
    """The kernel's process ended while it was needed."""


class KernelFailedError(Exception):
    """The kernel did not start, or code of ours failed in it; says why."""


class _Manager(AsyncKernelManager):
    """Starts what we say instead of what is registered with Jupyter."""

    ours: KernelSpec

    @property
    def kernel_spec(self) -> KernelSpec:
        return self.ours


class Kernel:
    """A kernel of one language.

    Args:
        language: which.
        cwd: the folder it starts in.
        folder: its own, for sockets; made at the start and removed at the end.
    """

    def __init__(self, language: Language, cwd: str, folder: Path) -> None:
        self._language = language
        self._cwd = cwd
        self._folder = folder
        self._manager: _Manager | None = None
        self._client: AsyncKernelClient

    async def start(self) -> None:
        """Starts the process and returns once it has run what it must know.

        Raises:
            KernelFailedError: it did not; nothing is left of it.
        """
        language = self._language
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o700)
        ipc = language.transport == "ipc"
        manager = _Manager(
            transport=language.transport,
            connection_file=str(self._folder / "connection.json"),
            **({"ip": str(self._folder / "socket")} if ipc else {}),
        )
        manager.ours = KernelSpec(
            argv=list(language.command), language=language.name, interrupt_mode=language.interrupt
        )
        self._manager = manager
        try:
            await manager.start_kernel(cwd=self._cwd, env={**os.environ, **language.environment})
            self._client = manager.client()
            self._client.start_channels(hb=False, control=False, stdin=False)
            # The client's own wait needs a heartbeat channel; a first answered cell tells as much.
            await self._until_heard()
            await self.run_silently(language.prelude)
        except BaseException as error:
            await self.stop()
            if isinstance(error, OSError | TimeoutError | KernelDiedError):
                raise KernelFailedError(f"the {language.name} kernel did not start: {error!r}") from error
            raise

    async def stop(self) -> None:
        """Ends the process and removes what it leaves; harmless when that was done before."""
        manager, self._manager = self._manager, None
        if manager is None:
            return
        with contextlib.suppress(AttributeError):
            self._client.stop_channels()
        if manager.has_kernel:
            await manager.shutdown_kernel(now=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._manager is not None and bool(await self._manager.is_alive())

    async def interrupt(self) -> None:
        """Stops the running cell as Ctrl-C does."""
        if self._manager is not None and await self._manager.is_alive():
            await self._manager.interrupt_kernel()

    async def run_silently(self, code: str, *, seconds: float | None = START_SECONDS) -> None:
        """Runs a cell of our own, which leaves no trace in the history.

        Raises:
            KernelFailedError: it raised; the traceback is in the message.
            KernelDiedError: the kernel ended.
            TimeoutError: it took longer than ``seconds``; None waits for as long as it takes.
        """
        async with asyncio.timeout(seconds), contextlib.aclosing(self.cell(code, silent=True)) as events:
            async for event in events:
                if event["type"] == "error":
                    raise KernelFailedError(event["traceback"] or event["value"])

    async def cell(self, code: str, *, silent: bool = False) -> AsyncGenerator[Event]:
        """Runs one cell; yields what happens.

        Raises:
            KernelDiedError: the kernel ended before the cell did.
        """
        request = self._client.execute(code, silent=silent, store_history=not silent, allow_stdin=False)
        translator = Translator(values_are_displayed=self._language.values_are_displayed)
        async with contextlib.aclosing(self._messages(request)) as messages:
            async for kind, content, timestamp in messages:
                for event in translator.feed(kind, content, timestamp):
                    yield event
        for event in translator.end():
            yield event

    async def _messages(self, request: str) -> AsyncGenerator[tuple[str, dict[str, Any], str]]:
        """What the kernel says about one request until it is done: kind, content and time of each message."""
        answered = done = False
        while True:
            try:
                message = await self._client.get_iopub_msg(
                    timeout=self._language.late_seconds if done else POLL_SECONDS
                )
            except queue.Empty:
                if done:
                    return
                # The kernel drops output that nobody takes in time, the word that it is done included; its
                # answer on the other channel is never dropped.
                if answered:
                    return
                answered = await self._answered(request)
                if not answered and not await self.is_alive():
                    raise KernelDiedError from None
                continue
            if message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["header"]["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                # Answers that nobody takes would fill the channel up.
                await self._answered(request)
                if not self._language.late_seconds:
                    return
                done = True
                continue
            # Most kernels' dates are parsed by the client library; one that it cannot read stays a text.
            date = message["header"]["date"]
            timestamp = date if isinstance(date, str) else date.isoformat()
            yield kind, content, timestamp

    async def _until_heard(self) -> None:
        """Returns once what the kernel says on its output channel arrives here."""
        async with asyncio.timeout(START_SECONDS):
            while True:
                request = self._client.kernel_info()
                with contextlib.suppress(queue.Empty):
                    while True:
                        message = await self._client.get_iopub_msg(timeout=POLL_SECONDS)
                        if message["parent_header"].get("msg_id") == request:
                            return
                if not await self.is_alive():
                    raise KernelDiedError

    async def _answered(self, request: str) -> bool:
        with contextlib.suppress(queue.Empty):
            while True:
                reply = await self._client.get_shell_msg(timeout=0)
                if reply["parent_header"].get("msg_id") == request:
                    return True
        return False
