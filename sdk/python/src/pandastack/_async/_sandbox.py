"""One sandbox: its commands, files, life and branches."""

from __future__ import annotations

import builtins
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, Unpack, overload

from pandastack import _wire, errors
from pandastack._async._code import AsyncCodeContext
from pandastack._async._commands import AsyncSandboxCommands, OnOutput
from pandastack._async._defaults import get_default_client
from pandastack._async._filesystem import AsyncSandboxFilesystem
from pandastack._async._runtime import CancelEvent
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
from pandastack._wire import STATE_TIMEOUT_SECONDS, Call

if TYPE_CHECKING:
    from pandastack._async._client import AsyncPandaStack
    from pandastack._async._explore import AsyncCandidate, AsyncExploreResult
    from pandastack._async._terminal import AsyncTerminal


@dataclass
class AsyncSandbox(SandboxFields):
    """A microVM. As a context manager it is killed at the end, unless it is persistent."""

    _client: AsyncPandaStack = field(repr=False, compare=False, kw_only=True)

    default_template: ClassVar[str] = "code-interpreter"

    @classmethod
    def from_dict(cls, data: Json, client: AsyncPandaStack) -> Self:
        """A sandbox from a server's answer, spoken to through ``client``."""
        return cls(**sandbox_fields(data), _client=client)

    @classmethod
    async def create(cls, template: str | None = None, **options: Any) -> AsyncSandbox:
        """``client.sandboxes.create`` of the default client."""
        return await get_default_client().sandboxes.create(template or cls.default_template, **options)

    @classmethod
    async def list(cls) -> builtins.list[AsyncSandbox]:
        """``client.sandboxes.list`` of the default client."""
        return await get_default_client().sandboxes.list()

    @classmethod
    async def get(cls, sandbox_id: str) -> AsyncSandbox:
        """``client.sandboxes.get`` of the default client."""
        return await get_default_client().sandboxes.get(sandbox_id)

    @property
    def filesystem(self) -> AsyncSandboxFilesystem:
        """The guest's files."""
        return AsyncSandboxFilesystem(self._client.http, self.id)

    @property
    def commands(self) -> AsyncSandboxCommands:
        """The guest's commands."""
        return AsyncSandboxCommands(self._client.http, self.id)

    # Running code

    async def exec(
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
        result = await self.commands.run(cmd, timeout_seconds, **options)
        return _checked(result) if check else result

    async def exec_stream(
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
        return await self.commands.stream(cmd, on_stdout, on_stderr, timeout_seconds, **options)

    async def exec_events(
        self, cmd: str | Sequence[str], timeout_seconds: float | None = None, **options: Unpack[ExecOptions]
    ) -> AsyncGenerator[ExecEvent, None]:
        """Run a command and iterate over its output as exact bytes, then its exit; options as of ``exec``.

        Raises:
            SandboxTimeout: it ran out of its time.
            ExecInterrupted: the stream ended without an exit code.
        """
        async with aclosing(self.commands.events(cmd, timeout_seconds, **options)) as events:
            async for event in events:
                yield event

    async def run_code(
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
            result = await self._run_once(wanted)
            return _checked(result) if check else result
        command = _wire.inline_code(code, language)
        if command is None:
            path, command = _wire.code_file(language)
            await self.filesystem.write(path, code)
        return await self.exec(command, timeout_seconds, check, **options)

    async def _run_once(self, wanted: Call) -> ExecResult:
        try:
            answer = _wire.mapping(await self._client.http.request(wanted))
        except errors.ServerError as error:
            raise _wire.as_exec_error(error) from error
        return Execution.from_dict(answer).as_printed()

    async def create_code_context(
        self, language: str = "python", *, cwd: str | None = None
    ) -> AsyncCodeContext:
        """Start an interpreter that keeps its state from one cell to the next.

        Args:
            language: ``python javascript typescript r java bash``.
            cwd: the folder it starts in; the user's home by default.

        Raises:
            BadRequestError: the sandbox has no interpreter for it; says which template has.
        """
        answer = _wire.mapping(
            await self._client.http.request(
                Call(
                    "POST",
                    f"{self._route}/repl/sessions",
                    json=_wire.without_none(language=language, cwd=cwd),
                    headers=_wire.idempotency(None),
                    timeout_seconds=_wire.CREATE_TIMEOUT_SECONDS,
                )
            )
        )
        return AsyncCodeContext(self._client.http, self.id, str(answer["id"]), language)

    async def code_contexts(self) -> builtins.list[AsyncCodeContext]:
        """All interpreters of the sandbox that keep their state, the oldest first."""
        rows = await self._client.http.request(Call("GET", f"{self._route}/repl/sessions"))
        return [
            AsyncCodeContext(self._client.http, self.id, str(row["id"]), str(row["language"]))
            for row in rows or ()
        ]

    async def terminal(
        self,
        cmd: str | Sequence[str] | None = None,
        *,
        rows: int = 24,
        cols: int = 80,
        **options: Unpack[ProcessOptions],
    ) -> AsyncTerminal:
        """Start a login shell, or a command, in a terminal of that size. It ends when the terminal is closed.

        Args:
            options: ``cwd``, ``env``, ``user``; see :class:`ProcessOptions`.

        Raises:
            BadRequestError: the size makes no sense, the sandbox does not run, or has no such folder or user.
        """
        query = {"rows": str(rows), "cols": str(cols), **_wire.process_query(cmd, **options)}
        return await self._client.http.talk(f"{self._route}/exec/pty", query)

    async def open_process(
        self, cmd: str | Sequence[str], **options: Unpack[ProcessOptions]
    ) -> AsyncTerminal:
        """Start a command over plain pipes, with stdin, byte for byte. It ends when what is returned is closed.

        Args:
            options: as of ``terminal``.
        """
        return await self._client.http.talk(f"{self._route}/exec/stdio", _wire.process_query(cmd, **options))

    async def logs(
        self, stream: Literal["both", "stdout", "stderr"] = "both", follow: bool = False
    ) -> AsyncGenerator[str, None]:
        """The sandbox's log, line by line; with ``follow`` it goes on until the sandbox ends."""
        params = {"stream": stream, "follow": "true" if follow else "false"}
        call = Call("GET", f"{self._route}/logs", params=params, timeout_seconds=None if follow else 60.0)
        if follow:
            async with aclosing(self._client.http.events(call)) as events:
                async for event in events:
                    yield _wire.log_text(event)
            return
        async with self._client.http.stream(call) as pieces:
            rest = b""
            async for piece in pieces:
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    yield line.decode("utf-8", "replace").removesuffix("\r")
            if rest:
                yield rest.decode("utf-8", "replace")

    # Life

    async def refresh(self) -> Self:
        """Bring this object up to date with the server."""
        self.update_from(_wire.mapping(await self._client.http.request(Call("GET", self._route))))
        return self

    async def kill(self) -> None:
        """End the sandbox and all that is in it."""
        await self._client.sandboxes.delete(self.id)

    async def pause(self) -> None:
        """Freeze it in memory."""
        await self._act("pause")

    async def resume(self) -> None:
        """Let a paused sandbox run on."""
        await self._act("resume")

    async def hibernate(self) -> None:
        """Put its memory to disk and free the host's."""
        await self._act("hibernate")

    async def wake(self) -> None:
        """Bring a hibernated sandbox back."""
        await self._act("wake")

    async def lifecycle(self) -> Lifecycle:
        """How long it may live, and how long it has been idle."""
        answer = await self._client.http.request(Call("GET", f"{self._route}/lifecycle"))
        return Lifecycle.from_dict(_wire.mapping(answer))

    async def set_ttl(self, seconds: int) -> Lifecycle:
        """Let it live ``seconds`` from its last use."""
        return await self._set_lifecycle({"ttl_seconds": seconds})

    async def set_persistent(self, persistent: bool) -> Lifecycle:
        """Let it live until it is killed, or take that back."""
        changed = await self._set_lifecycle({"persistent": persistent})
        self.persistent = changed.persistent
        return changed

    async def network(self) -> Network:
        """What its network may do."""
        answer = await self._client.http.request(Call("GET", f"{self._route}/network"))
        return Network.from_dict(_wire.mapping(answer))

    async def set_network(
        self, *, internet: bool = True, allow_out: Sequence[str] = (), deny_out: Sequence[str] = ()
    ) -> Network:
        """Change where it may connect to, as a whole and at once: connections that are no longer allowed end."""
        change = {"internet": internet, "allow_out": list(allow_out), "deny_out": list(deny_out)}
        answer = await self._client.http.request(Call("PUT", f"{self._route}/network", json=change))
        return Network.from_dict(_wire.mapping(answer))

    # Snapshots and branches

    async def snapshot(self, name: str | None = None) -> str:
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
        return Snapshot.from_dict(_wire.mapping(await self._client.http.create(call))).id

    async def rollback(self, snapshot: str | Snapshot) -> Self:
        """Return this sandbox, under the same id, to what it was at a snapshot."""
        snapshot_id = snapshot.id if isinstance(snapshot, Snapshot) else snapshot
        answer = await self._client.http.request(
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
    async def fork(
        self,
        metadata: Mapping[str, str] | None = None,
        *,
        count: None = None,
        idempotency_key: str | None = None,
        cancel: CancelEvent | None = None,
    ) -> AsyncSandbox: ...

    @overload
    async def fork(
        self,
        metadata: Mapping[str, str] | None = None,
        *,
        count: int,
        idempotency_key: str | None = None,
        cancel: CancelEvent | None = None,
    ) -> builtins.list[AsyncSandbox]: ...

    async def fork(
        self,
        metadata: Mapping[str, str] | None = None,
        *,
        count: int | None = None,
        idempotency_key: str | None = None,
        cancel: CancelEvent | None = None,
    ) -> AsyncSandbox | builtins.list[AsyncSandbox]:
        """A second sandbox that goes on from this one's memory and disk; with ``count``, a list of that many.

        Raises:
            ForkIncomplete: some of the children could not be made.
            CapacityError: there is no room for them.
        """
        fork = self._client.sandboxes.fork
        if count is None:
            return await fork(self.id, metadata, idempotency_key=idempotency_key, cancel=cancel)
        return await fork(self.id, metadata, count=count, idempotency_key=idempotency_key, cancel=cancel)

    async def fork_tree(
        self,
        count: int,
        metadata: Mapping[str, str] | None = None,
        *,
        idempotency_key: str | None = None,
        cancel: CancelEvent | None = None,
    ) -> builtins.list[AsyncSandbox]:
        """Forks that belong together, of which one is later promoted.

        Raises:
            ForkIncomplete: some of the children could not be made.
        """
        return await self._client.sandboxes.fork_tree(
            self.id, count, metadata, idempotency_key=idempotency_key, cancel=cancel
        )

    async def promote(self, *, cleanup_siblings: bool = False, tree_id: str | None = None) -> Promotion:
        """Make this branch of a fork tree a sandbox of its own, and delete its siblings if wished."""
        return await self._client.sandboxes.promote(
            self.id, cleanup_siblings=cleanup_siblings, tree_id=tree_id
        )

    async def explore(self, candidates: Sequence[AsyncCandidate | str], **options: Any) -> AsyncExploreResult:
        """Try candidates in parallel forks and keep the best; options and errors as of ``explore``."""
        from pandastack._async._explore import explore

        return await explore(self, candidates, **options)

    async def tree(self) -> TreeNode:
        """The forks this sandbox belongs to, from the first ancestor down."""
        answer = await self._client.http.request(Call("GET", f"{self._route}/tree"))
        return TreeNode.from_dict(_wire.mapping(answer))

    # Reaching its ports

    def preview_url(self, port: int, scheme: str | None = None) -> str:
        """The address under which ``port`` of the sandbox is reached. The id in it is the only secret."""
        return self._client.settings.preview_url(self.id, port, scheme)

    async def preview_urls(self) -> dict[int, str]:
        """The addresses of the ports something listens on, by port."""
        answer = await self._client.http.request(Call("GET", f"{self._route}/ports"))
        found = answer.get("ports") if isinstance(answer, Mapping) else answer
        ports = [int(item["port"] if isinstance(item, Mapping) else item) for item in found or ()]
        return {port: self.preview_url(port) for port in ports}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.persistent:
            return
        if error is None:
            with suppress(errors.NotFoundError):
                await self.kill()
        else:  # the body's own error is the one to be seen; the time to live removes what remains
            with suppress(errors.PandastackError):
                await self.kill()

    @property
    def _route(self) -> str:
        return _wire.path("sandboxes", self.id)

    async def _act(self, verb: str) -> None:
        await self._client.http.request(
            Call("POST", f"{self._route}/{verb}", timeout_seconds=STATE_TIMEOUT_SECONDS)
        )

    async def _set_lifecycle(self, change: dict[str, Any]) -> Lifecycle:
        answer = await self._client.http.request(Call("PATCH", f"{self._route}/lifecycle", json=change))
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
