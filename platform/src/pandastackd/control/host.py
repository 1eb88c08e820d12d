"""What control needs of a host, as two small interfaces: the agent that owns its sandboxes, and the guest
inside one.

``pandastackd.agent.agent.Agent`` and ``pandastackd.guest.GuestClient`` are the real ones.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol

from pandastackd.domain import (
    Egress,
    ForkReport,
    HostCapacity,
    MachineUsage,
    SandboxReport,
    SandboxSpec,
    SnapshotReport,
    TemplateReport,
)
from pandastackd.guest.types import Command, Event, FileInfo, FileReader, LogLine, ProcessInfo, Usage


class Guest(Protocol):
    """The part of a guest's client that serves requests; errors are those of ``GuestClient``."""

    def start(self, command: Command) -> AsyncGenerator[Event]:
        """Start a process and follow it."""

    async def signal(self, pid: int, name: Literal["SIGTERM", "SIGKILL"]) -> None:
        """Send a signal; SIGKILL takes all children along."""

    async def send_input(self, pid: int, data: bytes, *, pty: bool = False) -> None:
        """Write to a process's stdin, or to its terminal."""

    async def close_stdin(self, pid: int) -> None:
        """Let a process see the end of its input."""

    async def resize(self, pid: int, cols: int, rows: int) -> None:
        """Resize a process's terminal."""

    async def processes(self) -> list[ProcessInfo]:
        """The processes that were started and still run."""

    def read(self, path: str) -> AbstractAsyncContextManager[FileReader]:
        """Open a file to be read inside the block."""

    async def write(self, path: str, chunks: AsyncIterable[bytes] | bytes) -> FileInfo:
        """Write a file, streamed; folders above it are made."""

    async def stat(self, path: str) -> FileInfo:
        """What is at ``path``."""

    async def list_dir(self, path: str) -> list[FileInfo]:
        """What is in a folder."""

    async def remove(self, path: str) -> None:
        """Remove a file, or a folder with everything in it."""

    def logs(self, stream: Literal["stdout", "stderr", "both"], follow: bool) -> AsyncGenerator[LogLine]:
        """What the sandbox's processes printed, and what follows."""

    async def usage(self) -> Usage:
        """What the sandbox uses just now."""

    async def dial(self, port: int, *, timeout_seconds: float = 10.0) -> socket.socket:
        """A connection for traffic from outside; it ends with the machine. Raises NotFound."""


class HostAgent(Protocol):
    """A host's agent; safe for concurrent calls."""

    async def capacity(self) -> HostCapacity:
        """What the host has and what is free of it."""

    async def templates(self) -> list[TemplateReport]:
        """The templates that are baked here."""

    async def create(self, spec: SandboxSpec) -> SandboxReport:
        """Restore a snapshot as a new sandbox; when it raises, nothing is left behind."""

    async def delete(self, sandbox_id: str) -> None:
        """End a sandbox and remove every trace; what is not there is no error."""

    async def report(self, sandbox_id: str) -> SandboxReport:
        """What is known of one sandbox. Raises NotFound."""

    async def reports(self) -> list[SandboxReport]:
        """What is known of every sandbox on the host."""

    async def pause(self, sandbox_id: str) -> SandboxReport:
        """Freeze in memory; when it raises, the sandbox goes on running."""

    async def resume(self, sandbox_id: str) -> SandboxReport:
        """Let a paused sandbox go on."""

    async def hibernate(self, sandbox_id: str) -> SandboxReport:
        """Memory to disk, and end the machine; when it raises, the sandbox goes on as it was."""

    async def wake(self, sandbox_id: str) -> SandboxReport:
        """Start a hibernated sandbox where it stopped; when it raises, it is still hibernated."""

    async def rollback(self, sandbox_id: str, snapshot_id: str) -> SandboxReport:
        """Put an earlier instant in place of the present one; when it raises, the report says what is."""

    async def restrict(self, sandbox_id: str, egress: Egress) -> None:
        """Change what a sandbox may reach, at once; when it raises, what was in force still is."""

    async def snapshot(self, sandbox_id: str, snapshot_id: str) -> SnapshotReport:
        """Capture a running or paused sandbox, which goes on; when it raises, nothing is left behind."""

    async def snapshots(self) -> list[str]:
        """Ids of users' snapshots on the host, and of whatever cannot be read and may be one."""

    async def delete_snapshot(self, snapshot_id: str) -> None:
        """Remove a snapshot; nothing that runs needs it. What is not there is no error."""

    async def fork(self, parent_id: str, specs: Sequence[SandboxSpec]) -> ForkReport:
        """One capture of the parent, one child a spec; a child that failed has left nothing behind.

        When it raises, the parent goes on and no child was made.
        """

    async def usage(self, sandbox_id: str) -> list[Usage]:
        """What a sandbox used, oldest first: points of the past, by the host's clock, and one of now if it runs."""

    async def machine_usage(self, sandbox_id: str) -> MachineUsage:
        """What a sandbox's machine takes of the host just now. Raises Conflict when it has none."""

    def guest(self, sandbox_id: str) -> Guest:
        """The client of a running sandbox's guest. Raises NotFound, Conflict."""

    async def wait_change(self) -> str:
        """The id of the next sandbox whose state changed by itself."""
