# Generated from _async/_code.py by scripts/generate_sync.py; do not edit.
"""Stateful code: a context keeps its variables from one cell to the next."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from pandastack import _wire, errors
from pandastack._models import CellEvent, CellException, CellExit, CellOutput, Execution, Result
from pandastack._sync._http import Http
from pandastack._sync._runtime import call as call_back
from pandastack._wire import Call

OnText = Callable[[str], Any]
OnResult = Callable[[Result], Any]
OnException = Callable[[CellException], Any]


class CodeContext:
    """One running interpreter in a sandbox; closed at the end of its ``with`` block."""

    def __init__(self, http: Http, sandbox_id: str, session_id: str, language: str) -> None:
        self._http = http
        self._route = _wire.path("sandboxes", sandbox_id, "repl", "sessions", session_id)
        self.id = session_id
        self.language = language

    def run_code(
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
            with closing(self.events(code, timeout_seconds, env=env)) as events:
                for event in events:
                    seen.append(event)
                    match event:
                        case CellOutput("stdout", text):
                            _tell(on_stdout, text)
                        case CellOutput(_, text):
                            _tell(on_stderr, text)
                        case Result():
                            _tell(on_result, event)
                        case CellException():
                            _tell(on_exception, event)
            return Execution.from_events(seen)
        try:
            wanted = _wire.cell_call(f"{self._route}/run", code, timeout_seconds, env)
            return Execution.from_dict(_wire.mapping(self._http.request(wanted)))
        except errors.ServerError as error:
            raise _wire.as_exec_error(error) from error

    def events(
        self, code: str, timeout_seconds: float | None = None, *, env: Mapping[str, str] | None = None
    ) -> Generator[CellEvent, None]:
        """Run one cell and iterate over what it does: ``CellOutput``, ``Result``, ``CellException``; then ``CellExit``.

        Leaving the iteration early stops the cell.

        Raises:
            SandboxTimeout: the cell ran out of its time; the context lives on.
            ExecInterrupted: the stream ended before the cell did.
        """
        wanted = _wire.cell_call(f"{self._route}/run/stream", code, timeout_seconds, env)
        streamed = replace(wanted, headers={"Accept": "text/event-stream"})
        try:
            with closing(self._http.events(streamed)) as events:
                for raw in events:
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

    def restart(self) -> None:
        """Put a fresh interpreter in place of this one; what runs in it is stopped."""
        wanted = Call("POST", f"{self._route}/restart", timeout_seconds=_wire.CREATE_TIMEOUT_SECONDS)
        self._http.request(wanted)

    def close(self) -> None:
        """End the interpreter; harmless when it is gone already."""
        try:
            self._http.request(Call("DELETE", self._route))
        except errors.NotFoundError:
            return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _tell(callback: Callable[[Any], Any] | None, what: Any) -> None:
    if callback is not None:
        call_back(callback, what)


_INTERRUPTED = (
    "the output stream ended before the cell did; the cell may have finished, failed, or still be running"
)
