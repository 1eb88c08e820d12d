# Generated from _async/_sandbox.py by scripts/generate_sync.py; do not edit.
"""One sandbox: its commands, files, life and branches."""

from __future__ import annotations

import builtins
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, Unpack, overload

from pandastack import _wire, errors
from pandastack._models import (
    ExecEvent,
    ExecResult,
    Execution,
    Json,
    Lifecycle,
    Network,
    Promotion,
    SandboxFields,
    Snapshot,
    TreeNode,
    sandbox_fields,
)
from pandastack._options import ExecOptions, ProcessOptions
from pandastack._sync._code import CodeContext
from pandastack._sync._commands import OnOutput, SandboxCommands
from pandastack._sync._defaults import get_default_client
from pandastack._sync._filesystem import SandboxFilesystem
from pandastack._sync._runtime import CancelEvent
from pandastack._wire import STATE_TIMEOUT_SECONDS, Call

if TYPE_CHECKING:
    from pandastack._sync._client import PandaStack
    from pandastack._sync._explore import Candidate, ExploreResult
    from pandastack._sync._terminal import Terminal


@dataclass
class Sandbox(SandboxFields):
    """A microVM. As a context manager it is killed at the end, unless it is persistent."""

    _client: PandaStack = field(repr=False, compare=False, kw_only=True)

    default_template: ClassVar[str] = "code-interpreter"

    @classmethod
    def from_dict(cls, data: Json, client: PandaStack) -> Self:
        """A sandbox from a server's answer, spoken to through ``client``."""
        return cls(**sandbox_fields(data), _client=client)

    @classmethod
    def create(cls, template: str | None = None, **options: Any) -> Sandbox:
        """``client.sandboxes.create`` of the default client."""
        return get_default_client().sandboxes.create(template or cls.default_template, **options)

    @classmethod
    def list(cls) -> builtins.list[Sandbox]:
        """``client.sandboxes.list`` of the default client."""
        return get_default_client().sandboxes.list()

    @classmethod
    def get(cls, sandbox_id: str) -> Sandbox:
        """``client.sandboxes.get`` of the default client."""
        return get_default_client().sandboxes.get(sandbox_id)

    @property
    def filesystem(self) -> SandboxFilesystem:
        """The guest's files."""
        return SandboxFilesystem(self._client.http, self.id)

    @property
    def commands(self) -> SandboxCommands:
        """The guest's commands."""
        return SandboxCommands(self._client.http, self.id)

    # Running code

    def exec(
        self,
        cmd: str | Sequence[str],
        timeout_seconds: float | None = None,
        check: bool = False,
        **options: Unpack[ExecOptions],
    ) -> ExecResult:
        """Run a command to its end. ``cmd`` is shell text, or a list of arguments that need no quoting.

        Args:
            timeout_seconds: after this the command and all its children are killed.
                Default: the server's limit.
            check: raise ``CommandFailed`` on a non-zero exit.
            options: ``cwd``, ``env``, ``user``, ``stdin``; see :class:`ExecOptions`.

        Raises:
            SandboxTimeout: it ran out of its time.
            CommandFailed: only with ``check``.
        """
        result = self.commands.run(cmd, timeout_seconds, **options)
        return _checked(result) if check else result

    def exec_stream(
        self,
        cmd: str | Sequence[str],
        on_stdout: OnOutput | None = None,
        on_stderr: OnOutput | None = None,
        timeout_seconds: float | None = None,
        **options: Unpack[ExecOptions],
    ) -> int:
        """Run a command, hand its output to callbacks as it comes, and return its exit code; options as of ``exec``.

        Raises:
            SandboxTimeout: it ran out of its time.
            ExecInterrupted: the stream ended without an exit code; carries what had arrived.
        """
        return self.commands.stream(cmd, on_stdout, on_stderr, timeout_seconds, **options)

    def exec_events(
        self, cmd: str | Sequence[str], timeout_seconds: float | None = None, **options: Unpack[ExecOptions]
    ) -> Generator[ExecEvent, None]:
        """Run a command and iterate over its output as exact bytes, then its exit; options as of ``exec``.

        Raises:
            SandboxTimeout: it ran out of its time.
            ExecInterrupted: the stream ended without an exit code.
        """
        with closing(self.commands.events(cmd, timeout_seconds, **options)) as events:
            yield from events

    def run_code(
        self,
        code: str,
        language: str = "python",
        timeout_seconds: float | None = None,
        check: bool = False,
        **options: Unpack[ExecOptions],
    ) -> ExecResult:
        """Run code in a fresh interpreter: ``python bash sh shell javascript node``; where the template has kernels
        for them, also ``typescript r java``. Arguments and errors as of ``exec``; kernels take ``env`` alone.

        For state that lasts from cell to cell, and rich results, see ``create_code_context``.
        """
        if language in _wire.KERNEL_LANGUAGES:
            wanted = _wire.once_call(f"{self._route}/repl", code, language, timeout_seconds, **options)
            result = self._run_once(wanted)
            return _checked(result) if check else result
        command = _wire.inline_code(code, language)
        if command is None:
            path, command = _wire.code_file(language)
            self.filesystem.write(path, code)
        return self.exec(command, timeout_seconds, check, **options)

    def _run_once(self, wanted: Call) -> ExecResult:
        try:
            answer = _wire.mapping(self._client.http.request(wanted))
        except errors.ServerError as error:
            raise _wire.as_exec_error(error) from error
        return Execution.from_dict(answer).as_printed()

    def create_code_context(self, language: str = "python", *, cwd: str | None = None) -> CodeContext:
        """Start an interpreter that keeps its state from one cell to the next.

        Args:
            language: ``python javascript typescript r java bash``.
            cwd: the folder it starts in; the user's home by default.

        Raises:
            BadRequestError: the sandbox has no interpreter for it; says which template has.
        """
        answer = _wire.mapping(
            self._client.http.request(
                Call(
                    "POST",
                    f"{self._route}/repl/sessions",
                    json=_wire.without_none(language=language, cwd=cwd),
                    headers=_wire.idempotency(None),
                    timeout_seconds=_wire.CREATE_TIMEOUT_SECONDS,
                )
            )
        )
        return CodeContext(self._client.http, self.id, str(answer["id"]), language)

    def code_contexts(self) -> builtins.list[CodeContext]:
        """All interpreters of the sandbox that keep their state, the oldest first."""
        rows = self._client.http.request(Call("GET", f"{self._route}/repl/sessions"))
        return [
            CodeContext(self._client.http, self.id, str(row["id"]), str(row["language"]))
            for row in rows or ()
        ]

    def terminal(
        self,
        cmd: str | Sequence[str] | None = None,
        *,
        rows: int = 24,
        cols: int = 80,
        **options: Unpack[ProcessOptions],
    ) -> Terminal:
        """Start a login shell, or a command, in a terminal of that size. It ends when the terminal is closed.

        Args:
            options: ``cwd``, ``env``, ``user``; see :class:`ProcessOptions`.

        Raises:
            BadRequestError: the size makes no sense, the sandbox does not run, or has no such folder or user.
        """
        query = {"rows": str(rows), "cols": str(cols), **_wire.process_query(cmd, **options)}
        return self._client.http.talk(f"{self._route}/exec/pty", query)

    def open_process(self, cmd: str | Sequence[str], **options: Unpack[ProcessOptions]) -> Terminal:
        """Start a command over plain pipes, with stdin, byte for byte. It ends when what is returned is closed.

        Args:
            options: as of ``terminal``.
        """
        return self._client.http.talk(f"{self._route}/exec/stdio", _wire.process_query(cmd, **options))

    def logs(
        self, stream: Literal["both", "stdout", "stderr"] = "both", follow: bool = False
    ) -> Generator[str, None]:
        """The sandbox's log, line by line; with ``follow`` it goes on until the sandbox ends."""
        params = {"stream": stream, "follow": "true" if follow else "false"}
        call = Call("GET", f"{self._route}/logs", params=params, timeout_seconds=None if follow else 60.0)
        if follow:
            with closing(self._client.http.events(call)) as events:
                for event in events:
                    yield _wire.log_text(event)
            return
        with self._client.http.stream(call) as pieces:
            rest = b""
            for piece in pieces:
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    yield line.decode("utf-8", "replace").removesuffix("\r")
            if rest:
                yield rest.decode("utf-8", "replace")

    # Life

    def refresh(self) -> Self:
        """Bring this object up to date with the server."""
        self.update_from(_wire.mapping(self._client.http.request(Call("GET", self._route))))
        return self

    def kill(self) -> None:
        """End the sandbox and all that is in it."""
        self._client.sandboxes.delete(self.id)

    def pause(self) -> None:
        """Freeze it in memory."""
        self._act("pause")

    def resume(self) -> None:
        """Let a paused sandbox run on."""
        self._act("resume")

    def hibernate(self) -> None:
        """Put its memory to disk and free the host's."""
        self._act("hibernate")

    def wake(self) -> None:
        """Bring a hibernated sandbox back."""
        self._act("wake")

    def lifecycle(self) -> Lifecycle:
        """How long it may live, and how long it has been idle."""
        answer = self._client.http.request(Call("GET", f"{self._route}/lifecycle"))
        return Lifecycle.from_dict(_wire.mapping(answer))

    def set_ttl(self, seconds: int) -> Lifecycle:
        """Let it live ``seconds`` from its last use."""
        return self._set_lifecycle({"ttl_seconds": seconds})

    def set_persistent(self, persistent: bool) -> Lifecycle:
        """Let it live until it is killed, or take that back."""
        changed = self._set_lifecycle({"persistent": persistent})
        self.persistent = changed.persistent
        return changed

    def network(self) -> Network:
        """What its network may do."""
        answer = self._client.http.request(Call("GET", f"{self._route}/network"))
        return Network.from_dict(_wire.mapping(answer))

    def set_network(
        self, *, internet: bool = True, allow_out: Sequence[str] = (), deny_out: Sequence[str] = ()
    ) -> Network:
        """Change where it may connect to, as a whole and at once: connections that are no longer allowed end."""
        change = {"internet": internet, "allow_out": list(allow_out), "deny_out": list(deny_out)}
        answer = self._client.http.request(Call("PUT", f"{self._route}/network", json=change))
        return Network.from_dict(_wire.mapping(answer))

    # Snapshots and branches

    def snapshot(self, name: str | None = None) -> str:
        """Capture memory, device state and disk at this instant; returns the snapshot's id.

        Args:
            name: to tell it from others; need not be new.
        """
        call = Call(
            "POST",
            f"{self._route}/snapshots",
            json=_wire.without_none(name=name) or None,
            headers=_wire.idempotency(None),
            timeout_seconds=STATE_TIMEOUT_SECONDS,
        )
        return Snapshot.from_dict(_wire.mapping(self._client.http.create(call))).id

    def rollback(self, snapshot: str | Snapshot) -> Self:
        """Return this sandbox, under the same id, to what it was at a snapshot."""
        snapshot_id = snapshot.id if isinstance(snapshot, Snapshot) else snapshot
        answer = self._client.http.request(
            Call(
                "POST",
                f"{self._route}/rollback",
                json={"snapshot_id": snapshot_id},
                timeout_seconds=STATE_TIMEOUT_SECONDS,
            )
        )
        if isinstance(answer, Mapping) and "id" in answer:
            self.update_from(answer)
        return self

    @overload
    def fork(
        self,
        metadata: Mapping[str, str] | None = None,
        *,
        count: None = None,
        idempotency_key: str | None = None,
        cancel: CancelEvent | None = None,
    ) -> Sandbox: ...

    @overload
    def fork(
        self,
        metadata: Mapping[str, str] | None = None,
        *,
        count: int,
        idempotency_key: str | None = None,
        cancel: CancelEvent | None = None,
    ) -> builtins.list[Sandbox]: ...

    def fork(
        self,
        metadata: Mapping[str, str] | None = None,
        *,
        count: int | None = None,
        idempotency_key: str | None = None,
        cancel: CancelEvent | None = None,
    ) -> Sandbox | builtins.list[Sandbox]:
        """A second sandbox that goes on from this one's memory and disk; with ``count``, a list of that many.

        Raises:
            ForkIncomplete: some of the children could not be made.
            CapacityError: there is no room for them.
        """
        fork = self._client.sandboxes.fork
        if count is None:
            return fork(self.id, metadata, idempotency_key=idempotency_key, cancel=cancel)
        return fork(self.id, metadata, count=count, idempotency_key=idempotency_key, cancel=cancel)

    def fork_tree(
        self,
        count: int,
        metadata: Mapping[str, str] | None = None,
        *,
        idempotency_key: str | None = None,
        cancel: CancelEvent | None = None,
    ) -> builtins.list[Sandbox]:
        """Forks that belong together, of which one is later promoted.

        Raises:
            ForkIncomplete: some of the children could not be made.
        """
        return self._client.sandboxes.fork_tree(
            self.id, count, metadata, idempotency_key=idempotency_key, cancel=cancel
        )

    def promote(self, *, cleanup_siblings: bool = False, tree_id: str | None = None) -> Promotion:
        """Make this branch of a fork tree a sandbox of its own, and delete its siblings if wished."""
        return self._client.sandboxes.promote(self.id, cleanup_siblings=cleanup_siblings, tree_id=tree_id)

    def explore(self, candidates: Sequence[Candidate | str], **options: Any) -> ExploreResult:
        """Try candidates in parallel forks and keep the best; options and errors as of ``explore``."""
        from pandastack._sync._explore import explore

        return explore(self, candidates, **options)

    def tree(self) -> TreeNode:
        """The forks this sandbox belongs to, from the first ancestor down."""
        answer = self._client.http.request(Call("GET", f"{self._route}/tree"))
        return TreeNode.from_dict(_wire.mapping(answer))

    # Reaching its ports

    def preview_url(self, port: int, scheme: str | None = None) -> str:
        """The address under which ``port`` of the sandbox is reached. The id in it is the only secret."""
        return self._client.settings.preview_url(self.id, port, scheme)

    def preview_urls(self) -> dict[int, str]:
        """The addresses of the ports something listens on, by port."""
        answer = self._client.http.request(Call("GET", f"{self._route}/ports"))
        found = answer.get("ports") if isinstance(answer, Mapping) else answer
        ports = [int(item["port"] if isinstance(item, Mapping) else item) for item in found or ()]
        return {port: self.preview_url(port) for port in ports}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.persistent:
            return
        if error is None:
            with suppress(errors.NotFoundError):
                self.kill()
        else:  # the body's own error is the one to be seen; the time to live removes what remains
            with suppress(errors.PandastackError):
                self.kill()

    @property
    def _route(self) -> str:
        return _wire.path("sandboxes", self.id)

    def _act(self, verb: str) -> None:
        self._client.http.request(
            Call("POST", f"{self._route}/{verb}", timeout_seconds=STATE_TIMEOUT_SECONDS)
        )

    def _set_lifecycle(self, change: dict[str, Any]) -> Lifecycle:
        answer = self._client.http.request(Call("PATCH", f"{self._route}/lifecycle", json=change))
        return Lifecycle.from_dict(_wire.mapping(answer))


def _checked(result: ExecResult) -> ExecResult:
    if result.exit_code == 0:
        return result
    raise errors.CommandFailed(
        f"the command exited with {result.exit_code}: {_last_line(result)}",
        exit_code=result.exit_code,
        stdout=result.stdout,
        stderr=result.stderr,
    )


def _last_line(result: ExecResult) -> str:
    text = (result.stderr or result.stdout).strip()
    return text.rpartition("\n")[2][:200] or "it printed nothing"
