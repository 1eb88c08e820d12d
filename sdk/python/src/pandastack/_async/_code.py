"""Stateful code: a context keeps its variables from one cell to the next."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from pandastack import _wire, errors
from pandastack._async._http import AsyncHttp
from pandastack._async._runtime import call as call_back
from pandastack._models import CellEvent, CellException, CellExit, CellOutput, Execution, Result
from pandastack._wire import Call

OnText = Callable[[str], Any]
OnResult = Callable[[Result], Any]
OnException = Callable[[CellException], Any]


class AsyncCodeContext:
    """One running interpreter in a sandbox; closed at the end of its ``with`` block."""

    def __init__(self, http: AsyncHttp, sandbox_id: str, session_id: str, language: str) -> None:
        self._http = http
        self._route = _wire.path("sandboxes", sandbox_id, "repl", "sessions", session_id)
        self.id = session_id
        self.language = language

    async def run_code(
        self,
        code: str,
        timeout_seconds: float | None = None,
        *,
        env: Mapping[str, str] | None = None,
        on_stdout: OnText | None = None,
        on_stderr: OnText | None = None,
        on_result: OnResult | None = None,
        on_exception: OnException | None = None,
    ) -> Execution:
        """Run one cell and wait for it. Callbacks hear of what it does as it does it.

        Args:
            env: environment of this cell alone.

        Raises:
            SandboxTimeout: the cell ran out of its time; the context lives on.
            ExecInterrupted: with callbacks: the stream ended before the cell did.
        """
        if on_stdout or on_stderr or on_result or on_exception:
            seen: list[CellEvent] = []
            async with aclosing(self.events(code, timeout_seconds, env=env)) as events:
                async for event in events:
                    seen.append(event)
                    match event:
                        case CellOutput("stdout", text):
                            await _tell(on_stdout, text)
                        case CellOutput(_, text):
                            await _tell(on_stderr, text)
                        case Result():
                            await _tell(on_result, event)
                        case CellException():
                            await _tell(on_exception, event)
            return Execution.from_events(seen)
        try:
            wanted = _wire.cell_call(f"{self._route}/run", code, timeout_seconds, env)
            return Execution.from_dict(_wire.mapping(await self._http.request(wanted)))
        except errors.ServerError as error:
            raise _wire.as_exec_error(error) from error

    async def events(
        self, code: str, timeout_seconds: float | None = None, *, env: Mapping[str, str] | None = None
    ) -> AsyncGenerator[CellEvent, None]:
        """Run one cell and iterate over what it does: ``CellOutput``, ``Result``, ``CellException``; then ``CellExit``.

        Leaving the iteration early stops the cell.

        Raises:
            SandboxTimeout: the cell ran out of its time; the context lives on.
            ExecInterrupted: the stream ended before the cell did.
        """
        wanted = _wire.cell_call(f"{self._route}/run/stream", code, timeout_seconds, env)
        streamed = replace(wanted, headers={"Accept": "text/event-stream"})
        try:
            async with aclosing(self._http.events(streamed)) as events:
                async for raw in events:
                    event = _wire.cell_event(raw)
                    if event is not None:
                        yield event
                    if isinstance(event, CellExit):
                        return
        except errors.ConnectionError as error:
            if not error.sent:
                raise
            raise errors.ExecInterrupted(_INTERRUPTED) from error
        except errors.ServerError as error:
            raise _wire.as_exec_error(error) from error
        raise errors.ExecInterrupted(_INTERRUPTED)

    async def restart(self) -> None:
        """Put a fresh interpreter in place of this one; what runs in it is stopped."""
        wanted = Call("POST", f"{self._route}/restart", timeout_seconds=_wire.CREATE_TIMEOUT_SECONDS)
        await self._http.request(wanted)

    async def close(self) -> None:
        """End the interpreter; harmless when it is gone already."""
        try:
            await self._http.request(Call("DELETE", self._route))
        except errors.NotFoundError:
            return

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def _tell(callback: Callable[[Any], Any] | None, what: Any) -> None:
    if callback is not None:
        await call_back(callback, what)


_INTERRUPTED = (
    "the output stream ended before the cell did; the cell may have finished, failed, or still be running"
)
