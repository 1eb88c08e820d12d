# Generated from _async/_commands.py by scripts/generate_sync.py; do not edit.
"""Commands of one sandbox: run and wait, or follow the output as it comes."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, Unpack

from pandastack import _wire, errors
from pandastack._models import ExecEvent, ExecExit, ExecOutput, ExecResult
from pandastack._options import ExecOptions
from pandastack._sync._http import Http
from pandastack._sync._runtime import call

OnOutput = Callable[[str], Any]


class SandboxCommands:
    """Runs commands. A command is shell text, or a list of arguments that need no quoting."""

    def __init__(self, http: Http, sandbox_id: str) -> None:
        self._http = http
        self._route = _wire.path("sandboxes", sandbox_id, "exec")

    def run(
        self, cmd: str | Sequence[str], timeout: float | None = None, **options: Unpack[ExecOptions]
    ) -> ExecResult:
        """Run a command to its end; ``timeout`` is in seconds. A non-zero exit is a result, not an error.

        Args:
            options: ``cwd``, ``env``, ``user``, ``stdin``; see :class:`ExecOptions`.

        Raises:
            SandboxTimeout: it ran out of its time and was killed with all its children.
        """
        try:
            answer = self._http.request(_wire.exec_call(self._route, cmd, timeout, **options))
        except errors.ServerError as error:
            raise _wire.as_exec_error(error) from error
        return ExecResult.from_dict(_wire.mapping(answer))

    def events(
        self, cmd: str | Sequence[str], timeout: float | None = None, **options: Unpack[ExecOptions]
    ) -> Generator[ExecEvent, None]:
        """The output of a command as it comes, as exact bytes, and at the end its exit; options as of ``run``.

        Leaving the iteration early closes the connection, on which the server kills the command.

        Raises:
            SandboxTimeout: it ran out of its time.
            ExecInterrupted: the stream ended without an exit, so its fate is unknown.
        """
        wanted = _wire.exec_call(f"{self._route}/stream", cmd, timeout, **options)
        streamed = replace(wanted, headers={"Accept": "text/event-stream"})
        try:
            with closing(self._http.events(streamed)) as events:
                for raw in events:
                    event = _wire.exec_event(raw)
                    if event is None:
                        continue
                    yield event
                    if isinstance(event, ExecExit):
                        return
        except errors.ConnectionError as error:
            if not error.sent:
                raise
            raise errors.ExecInterrupted(_INTERRUPTED) from error
        except errors.ServerError as error:
            raise _wire.as_exec_error(error) from error
        raise errors.ExecInterrupted(_INTERRUPTED)

    def stream(
        self,
        cmd: str | Sequence[str],
        on_stdout: OnOutput | None = None,
        on_stderr: OnOutput | None = None,
        timeout: float | None = None,
        **options: Unpack[ExecOptions],
    ) -> int:
        """Run a command, hand its output to callbacks as text, and return its exit code; options as of ``run``.

        Raises:
            SandboxTimeout: it ran out of its time.
            ExecInterrupted: the stream ended without an exit; carries what had arrived.
        """
        sinks = {"stdout": _TextSink(on_stdout), "stderr": _TextSink(on_stderr)}
        try:
            with closing(self.events(cmd, timeout, **options)) as events:
                for event in events:
                    if isinstance(event, ExecOutput):
                        sink = sinks[event.stream]
                        sink.take(event.data)
                    else:
                        for sink in sinks.values():
                            sink.end()
                        return event.exit_code
        except errors.ExecInterrupted as error:
            error.partial_stdout = sinks["stdout"].tail
            error.partial_stderr = sinks["stderr"].tail
            raise
        raise errors.ExecInterrupted(_INTERRUPTED)


class _TextSink:
    """Turns bytes into text across chunk borders, for one callback, and remembers the end of it."""

    _KEPT_CHARACTERS = 256 * 1024

    def __init__(self, callback: OnOutput | None) -> None:
        self._callback = callback
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._kept: deque[str] = deque()
        self._kept_characters = 0

    @property
    def tail(self) -> str:
        """The end of all that came, at most ``_KEPT_CHARACTERS`` and a chunk."""
        return "".join(self._kept)

    def take(self, data: bytes) -> None:
        self._pass_on(self._decode(data))

    def end(self) -> None:
        self._pass_on(self._decode(b"", True))

    def _pass_on(self, text: str) -> None:
        if not text:
            return
        self._kept.append(text)
        self._kept_characters += len(text)
        while self._kept_characters - len(self._kept[0]) >= self._KEPT_CHARACTERS:
            self._kept_characters -= len(self._kept.popleft())
        if self._callback is not None:
            call(self._callback, text)


_INTERRUPTED = (
    "the output stream ended before the command's exit code arrived; "
    "the command may have finished, failed, or still be running"
)
