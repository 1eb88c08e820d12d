"""The tools: what a model is told of each, and how it is done. Docstrings here are read by models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context
from mcp_types import ToolAnnotations
from pydantic import BaseModel, Field

from pandastackd.api.mcp import code as cells
from pandastackd.api.mcp import guest_tools
from pandastackd.api.mcp.desk import Desk
from pandastackd.api.mcp.guest_tools import (
    DEFAULT_TIMEOUT_SECONDS,
    READ_BYTES,
    FileContent,
    Listing,
    Ran,
)
from pandastackd.api.mcp.server import CHANGES, DESTROYS, READS, Tool, ToolServer
from pandastackd.api.wire import time_text
from pandastackd.control import CreateRequest, ForkRequest, SandboxRow, SnapshotRow
from pandastackd.errors import InvalidRequest

MAX_LISTED = 100

Ctx = Context[Any, Any]
SandboxId = Annotated[str, Field(description="the sandbox's id, as create_sandbox gave it")]
Path = Annotated[str, Field(description="absolute, or relative to the user's home")]
Timeout = Annotated[float, Field(gt=0, description="seconds; then it is killed with all its children")]
Offset = Annotated[int, Field(ge=0, description="bytes to skip")]
Limit = Annotated[int, Field(gt=0, description="bytes to read at most")]
Encoding = Literal["utf-8", "base64"]

INSTRUCTIONS = """\
Sandboxes are Linux microVMs of your own: run anything in them. Make one with create_sandbox, use its id with the
other tools, and end it with delete_sandbox. Files, processes and memory stay between calls. Before something risky take
snapshot_sandbox, and go back with rollback_sandbox. To try several ways at once, fork_sandbox copies the running
machine."""


class SandboxInfo(BaseModel):
    """A sandbox."""

    sandbox_id: str
    template: str
    status: str
    created_at: str
    metadata: dict[str, str]


class Sandboxes(BaseModel):
    """The caller's sandboxes, newest first."""

    sandboxes: list[SandboxInfo]
    note: str | None = None


class Forked(BaseModel):
    """The children of a fork."""

    sandbox_ids: list[str]
    failures: list[str] = Field(description="why there are fewer than asked for, if so")


class SnapshotInfo(BaseModel):
    """A snapshot."""

    snapshot_id: str
    sandbox_id: str
    name: str | None
    created_at: str


class Snapshots(BaseModel):
    """The caller's snapshots, newest first."""

    snapshots: list[SnapshotInfo]


async def create_sandbox(
    ctx: Ctx,
    template: Annotated[str, Field(description="`code-interpreter` has Python and its data libraries")] = (
        "code-interpreter"
    ),
    ttl_seconds: Annotated[
        int | None, Field(gt=0, description="it ends this long after its last use")
    ] = None,
    metadata: dict[str, str] | None = None,
    from_snapshot: Annotated[
        str | None, Field(description="start from this snapshot, not a template")
    ] = None,
) -> SandboxInfo:
    """Make a sandbox: a fresh Linux microVM, ready for commands."""
    desk = Desk.of(ctx)
    row = await desk.control.sandboxes.create(
        desk.caller,
        CreateRequest(
            template=template,
            from_snapshot=from_snapshot,
            metadata=metadata or {},
            ttl_seconds=ttl_seconds,
        ),
    )
    desk.metrics.created(row.phases)
    return _info(row)


async def list_sandboxes(ctx: Ctx) -> Sandboxes:
    """The sandboxes there are."""
    desk = Desk.of(ctx)
    rows = await desk.control.sandboxes.listed(desk.caller)
    return Sandboxes(
        sandboxes=[_info(row) for row in rows[:MAX_LISTED]],
        note=f"{len(rows) - MAX_LISTED} older ones left out" if len(rows) > MAX_LISTED else None,
    )


async def delete_sandbox(ctx: Ctx, sandbox_id: SandboxId) -> str:
    """End a sandbox and everything in it."""
    desk = Desk.of(ctx)
    await desk.control.sandboxes.delete(desk.caller, sandbox_id)
    return f"deleted {sandbox_id}"


async def run_code(
    ctx: Ctx,
    sandbox_id: SandboxId,
    code: str,
    language: cells.Language = "python",
    timeout_seconds: Timeout = DEFAULT_TIMEOUT_SECONDS,
) -> cells.CodeRan:
    """Run code as a notebook's cell: variables stay for the next call of the language, the last value is `result`.

    A template without kernels (`base`) runs Python, bash and JavaScript, each call as a program of its own.
    """
    return await cells.run_code(Desk.of(ctx), sandbox_id, code, language, timeout_seconds)


async def run_command(
    ctx: Ctx,
    sandbox_id: SandboxId,
    command: Annotated[str, Field(description="bash; pipes and redirections work, stdin is empty")],
    timeout_seconds: Timeout = DEFAULT_TIMEOUT_SECONDS,
) -> Ran:
    """Run a shell command and wait for its end. Long output is cut in the middle."""
    return await guest_tools.run_command(Desk.of(ctx), sandbox_id, command, timeout_seconds)


async def read_file(
    ctx: Ctx, sandbox_id: SandboxId, path: Path, offset: Offset = 0, limit: Limit = READ_BYTES
) -> FileContent:
    """Read a file or a part of it; what is not text comes as base64."""
    return await guest_tools.read_file(Desk.of(ctx), sandbox_id, path, offset, limit)


async def write_file(
    ctx: Ctx, sandbox_id: SandboxId, path: Path, content: str, encoding: Encoding = "utf-8"
) -> str:
    """Write a whole file; the folders above it are made."""
    return await guest_tools.write_file(Desk.of(ctx), sandbox_id, path, content, encoding)


async def list_files(ctx: Ctx, sandbox_id: SandboxId, path: Path = ".") -> Listing:
    """List a folder."""
    return await guest_tools.list_files(Desk.of(ctx), sandbox_id, path)


async def fork_sandbox(
    ctx: Ctx, sandbox_id: SandboxId, count: Annotated[int, Field(ge=1, le=20, description="children")] = 1
) -> Forked:
    """Copy a running sandbox with its memory, processes and files; it goes on, and the copies go their own ways."""
    desk = Desk.of(ctx)
    fork = await desk.control.forks.fork(desk.caller, sandbox_id, ForkRequest(count=count, metadata={}))
    return Forked(
        sandbox_ids=[child.id for child in fork.children],
        failures=[f"{each['error']} (code: {each['code']})" for each in fork.failures],
    )


async def snapshot_sandbox(ctx: Ctx, sandbox_id: SandboxId, name: str | None = None) -> SnapshotInfo:
    """Keep a sandbox as it is at this instant, to go back to or to start others from; it goes on."""
    desk = Desk.of(ctx)
    row = await desk.control.snapshots.create(desk.caller, sandbox_id, name=name)
    return _snapshot(row)


async def list_snapshots(ctx: Ctx, sandbox_id: str | None = None) -> Snapshots:
    """The snapshots there are, of one sandbox or of all."""
    desk = Desk.of(ctx)
    rows = await desk.control.snapshots.listed(desk.caller, sandbox_id=sandbox_id)
    return Snapshots(snapshots=[_snapshot(row) for row in rows[:MAX_LISTED]])


async def rollback_sandbox(ctx: Ctx, sandbox_id: SandboxId, snapshot_id: str) -> SandboxInfo:
    """Put a sandbox back to a snapshot: files, processes and memory. What happened since is gone."""
    desk = Desk.of(ctx)
    return _info(await desk.control.sandboxes.rollback(desk.caller, sandbox_id, snapshot_id))


async def get_preview_url(
    ctx: Ctx, sandbox_id: SandboxId, port: Annotated[int, Field(ge=1, le=65535)]
) -> str:
    """The address under which a server on a port of the sandbox is reached from outside. Who has it may use it."""
    desk = Desk.of(ctx)
    await desk.control.sandboxes.get(desk.caller, sandbox_id)
    return f"{desk.scheme}://{port}-{sandbox_id}.{desk.host}"


async def shell(ctx: Ctx, command: str, timeout_seconds: Timeout = DEFAULT_TIMEOUT_SECONDS) -> Ran:
    """Run a shell command in the sandbox and wait for its end. Long output is cut in the middle."""
    return await guest_tools.run_command(*_own(ctx), command, timeout_seconds)


async def read_own_file(ctx: Ctx, path: Path, offset: Offset = 0, limit: Limit = READ_BYTES) -> FileContent:
    """Read a file or a part of it; what is not text comes as base64."""
    return await guest_tools.read_file(*_own(ctx), path, offset, limit)


async def write_own_file(ctx: Ctx, path: Path, content: str, encoding: Encoding = "utf-8") -> str:
    """Write a whole file; the folders above it are made."""
    return await guest_tools.write_file(*_own(ctx), path, content, encoding)


async def list_dir(ctx: Ctx, path: Path = ".") -> Listing:
    """List a folder."""
    return await guest_tools.list_files(*_own(ctx), path)


_WORKSPACE: tuple[tuple[ToolAnnotations, tuple[Tool, ...]], ...] = (
    (READS, (list_sandboxes, read_file, list_files, list_snapshots, get_preview_url)),
    (CHANGES, (create_sandbox, fork_sandbox, snapshot_sandbox)),
    (DESTROYS, (delete_sandbox, run_code, run_command, write_file, rollback_sandbox)),
)


def workspace_server() -> ToolServer:
    """For a whole workspace."""
    server = ToolServer(INSTRUCTIONS)
    for kind, tools in _WORKSPACE:
        for tool in tools:
            server.add_tool(tool, annotations=kind)
    return server


def sandbox_server() -> ToolServer:
    """For one sandbox, which the address names."""
    server = ToolServer("One Linux microVM of your own. Files, processes and memory stay between calls.")
    server.add_tool(shell, annotations=DESTROYS)
    server.add_tool(read_own_file, name="read_file", annotations=READS)
    server.add_tool(write_own_file, name="write_file", annotations=DESTROYS)
    server.add_tool(list_dir, annotations=READS)
    return server


def _own(ctx: Ctx) -> tuple[Desk, str]:
    desk = Desk.of(ctx)
    if desk.sandbox_id is None:
        raise InvalidRequest("this address names no sandbox")
    return desk, desk.sandbox_id


def _info(row: SandboxRow) -> SandboxInfo:
    return SandboxInfo(
        sandbox_id=row.id,
        template=row.template,
        status=row.state,
        created_at=time_text(row.created_at),
        metadata=row.labels,
    )


def _snapshot(row: SnapshotRow) -> SnapshotInfo:
    return SnapshotInfo(
        snapshot_id=row.id, sandbox_id=row.sandbox_id, name=row.name, created_at=time_text(row.created_at)
    )
