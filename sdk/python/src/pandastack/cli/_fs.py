"""``pandastack fs``: files of a sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from pandastack._wire import CHUNK_BYTES
from pandastack.cli import _values
from pandastack.cli._copy import Transfer
from pandastack.cli._print import print_done, print_facts, print_rows
from pandastack.cli._session import Output, SandboxId, session

group = typer.Typer(help="Read and write files in a sandbox.", no_args_is_help=True, rich_markup_mode=None)

PathArgument = Annotated[str | None, typer.Argument(metavar="PATH", show_default=False)]
PathOption = Annotated[str | None, typer.Option("--path", help="The same as PATH.")]


@group.command()
def read(
    ctx: typer.Context, sandbox_id: SandboxId, path: PathArgument = None, option: PathOption = None
) -> None:
    """Write a file's bytes to stdout."""
    wanted = _values.either(path, option, "PATH")
    out = typer.get_binary_stream("stdout")
    with closing(session(ctx).sandbox(sandbox_id).filesystem.read_stream(wanted)) as chunks:
        for chunk in chunks:
            out.write(chunk)
    out.flush()


@group.command()
def write(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    path: PathArgument = None,
    option: PathOption = None,
    content: Annotated[str | None, typer.Option(help="What to write; default: what comes on stdin.")] = None,
    stdin: Annotated[bool, typer.Option("--stdin", help="Write what comes on stdin.")] = False,
    output: Output = None,
) -> None:
    """Make or replace a file."""
    wanted = _values.either(path, option, "PATH")
    if stdin and content is not None:
        raise typer.BadParameter("give --content or --stdin, not both")
    files = session(ctx, output).sandbox(sandbox_id).filesystem
    if content is None:
        result = files.write_stream(wanted, _chunks(typer.get_binary_stream("stdin")))
    else:
        result = files.write(wanted, content)
    print_done(session(ctx), f"wrote {result.bytes} bytes to {wanted}", path=wanted, bytes=result.bytes)


@group.command()
def upload(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    local: Annotated[str | None, typer.Argument(show_default=False)] = None,
    remote: Annotated[str | None, typer.Argument(show_default=False)] = None,
    local_option: Annotated[str | None, typer.Option("--local", help="The same as LOCAL.")] = None,
    remote_option: Annotated[str | None, typer.Option("--remote", help="The same as REMOTE.")] = None,
    output: Output = None,
) -> None:
    """Copy a local file into the sandbox."""
    source = _values.either(local, local_option, "LOCAL")
    target = _values.either(remote, remote_option, "REMOTE")
    with Transfer(target, Path(source).stat().st_size) as transfer:
        files = session(ctx, output).sandbox(sandbox_id).filesystem
        result = files.upload(source, target, on_progress=transfer.reached)
    print_done(session(ctx), f"uploaded to {target}", path=target, bytes=result.bytes)


@group.command()
def download(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    remote: Annotated[str | None, typer.Argument(show_default=False)] = None,
    local: Annotated[str | None, typer.Argument(show_default=False)] = None,
    remote_option: Annotated[str | None, typer.Option("--remote", help="The same as REMOTE.")] = None,
    local_option: Annotated[str | None, typer.Option("--local", help="The same as LOCAL.")] = None,
    output: Output = None,
) -> None:
    """Copy a file out of the sandbox."""
    source = _values.either(remote, remote_option, "REMOTE")
    target = _values.either(local, local_option, "LOCAL")
    files = session(ctx, output).sandbox(sandbox_id).filesystem
    with Transfer(source, files.stat(source).size) as transfer:
        files.download(source, target, on_progress=transfer.reached)
    print_done(session(ctx), f"downloaded to {target}", path=target)


@group.command()
def ls(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    path: Annotated[str, typer.Argument()] = "/",
    output: Output = None,
) -> None:
    """List a directory."""
    found = session(ctx, output).sandbox(sandbox_id).filesystem.listdir(path)
    print_rows(session(ctx), found, ("mode", "size", "mtime", "is_dir", "name"))


@group.command()
def stat(
    ctx: typer.Context, sandbox_id: SandboxId, path: Annotated[str, typer.Argument()], output: Output = None
) -> None:
    """Show what a path is."""
    found = session(ctx, output).sandbox(sandbox_id).filesystem.stat(path)
    print_facts(session(ctx), found)


@group.command()
def rm(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", show_default=False)],
    output: Output = None,
) -> None:
    """Delete files or directories."""
    for path in paths:
        session(ctx, output).sandbox(sandbox_id).filesystem.remove(path)
        print_done(session(ctx), f"removed {path}", removed=path)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk
