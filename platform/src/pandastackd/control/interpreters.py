"""Code that runs in a sandbox's kernels: contexts, and cells with a limit on their time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Final

from pandastackd.control.background import Background
from pandastackd.control.commands import checked_timeout
from pandastackd.control.keys import Principal
from pandastackd.control.sandboxes import Sandboxes
from pandastackd.errors import CommandTimeout, InvalidRequest, NotFound, PlatformError
from pandastackd.guest.interpreter import CellEvent, CodeContext, Interpreter

TEMPLATE: Final = "code-interpreter"
"""The template that has an interpreter in it."""

LANGUAGES: Final = ("python", "javascript", "typescript", "r", "java", "bash")
"""What the interpreter of that template knows; the first is for callers who name none."""


class Interpreters:
    """The code interpreters of all sandboxes."""

    def __init__(self, sandboxes: Sandboxes, background: Background) -> None:
        self._sandboxes = sandboxes
        self._background = background

    async def contexts(self, principal: Principal, sandbox_id: str) -> Sequence[CodeContext]:
        """The contexts of a sandbox. Raises as :meth:`open`."""
        async with self._use(principal, sandbox_id) as interpreter:
            return await interpreter.contexts()

    async def open(
        self, principal: Principal, sandbox_id: str, language: str | None, cwd: str | None
    ) -> CodeContext:
        """Start a kernel.

        Raises:
            NotFound: there is no such sandbox, or it is not the caller's.
            Conflict: it is not running.
            InvalidRequest: it has no interpreter, or none for this language, or there is no such folder.
            RateLimited: it has as many contexts as it may.
        """
        async with self._use(principal, sandbox_id) as interpreter:
            return await interpreter.open(language, cwd)

    async def close(self, principal: Principal, sandbox_id: str, context_id: str) -> None:
        """End a kernel. Raises as :meth:`open`, and NotFound for the context."""
        async with self._use(principal, sandbox_id) as interpreter:
            await interpreter.close(context_id)

    async def restart(self, principal: Principal, sandbox_id: str, context_id: str) -> None:
        """Put a fresh kernel in place of one. Raises as :meth:`close`."""
        async with self._use(principal, sandbox_id) as interpreter:
            await interpreter.restart(context_id)

    async def run(
        self,
        principal: Principal,
        sandbox_id: str,
        context_id: str,
        code: str,
        *,
        timeout_seconds: float | None = None,
        env: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[CellEvent]:
        """Run a cell. Closed early, or out of its time, it is stopped; the context lives on.

        Raises:
            CommandTimeout: its time was up.
            As :meth:`close`.
        """
        limit = checked_timeout(timeout_seconds, field="timeout_ms", unit=1000)
        deadline = asyncio.get_running_loop().time() + limit
        async with (
            self._use(principal, sandbox_id) as interpreter,
            aclosing(interpreter.run(context_id, code, env)) as events,
        ):
            while True:
                try:
                    async with asyncio.timeout_at(deadline):
                        event = await anext(events, None)
                except TimeoutError:
                    raise CommandTimeout(
                        f"the cell timed out after {limit:g}s: deadline exceeded; it was stopped, and its context"
                        " lives on; give it more time"
                    ) from None
                if event is None:
                    return
                yield event

    @asynccontextmanager
    async def temporary(
        self, principal: Principal, sandbox_id: str, language: str | None
    ) -> AsyncIterator[CodeContext]:
        """A context that ends with the block. Raises as :meth:`open`."""
        context = await self.open(principal, sandbox_id, language, None)
        try:
            yield context
        finally:
            # A job of its own: this code may be running because the caller was cancelled.
            self._background.spawn(self._forget(principal, sandbox_id, context.id), name="close-context")

    async def _forget(self, principal: Principal, sandbox_id: str, context_id: str) -> None:
        # Whatever goes wrong here means that the sandbox, or the context, is gone already.
        with suppress(PlatformError):
            await self.close(principal, sandbox_id, context_id)

    @asynccontextmanager
    async def _use(self, principal: Principal, sandbox_id: str) -> AsyncIterator[Interpreter]:
        async with self._sandboxes.use(principal, sandbox_id) as guest:

            async def connect(port: int) -> socket.socket:
                try:
                    return await guest.dial(port)
                except NotFound:
                    raise InvalidRequest(
                        f"sandbox {sandbox_id} has no code interpreter: nothing listens on port {port} in it; create"
                        f" one from the template {TEMPLATE}",
                        code="no_interpreter",
                    ) from None

            yield Interpreter(connect)
