"""``pandastack mcp``: for programs that start their MCP servers as a command."""

from __future__ import annotations

import sys
from functools import partial
from typing import Annotated

import anyio
import anyio.to_thread
import typer

from pandastack import _wire
from pandastack._async._client import AsyncPandaStack
from pandastack._mcp import McpWire
from pandastack.cli._session import session


def mcp(
    ctx: typer.Context,
    sandbox: Annotated[
        str | None, typer.Option(metavar="ID", help="Only this sandbox's tools.", show_default=False)
    ] = None,
) -> None:
    """Serve the sandboxes' tools to an MCP client on stdin and stdout."""
    path = "/mcp" if sandbox is None else f"{_wire.path('sandboxes', sandbox)}/mcp"
    settings = session(ctx).client.settings
    if sys.stdin.isatty():
        typer.echo(
            f"this speaks MCP for {settings.api_url} on stdin and stdout: let an MCP client start it",
            err=True,
        )
    anyio.run(_serve, settings.api_url, settings.api_key, path)


async def _serve(api_url: str, api_key: str | None, path: str) -> None:
    in_thread = partial(anyio.to_thread.run_sync, abandon_on_cancel=True)

    def write(line: bytes) -> None:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()

    async with AsyncPandaStack(api_url=api_url, api_key=api_key) as client:
        await McpWire(
            client.http,
            path,
            read_line=lambda: in_thread(sys.stdin.buffer.readline),
            write=lambda line: in_thread(write, line),
        ).run()
