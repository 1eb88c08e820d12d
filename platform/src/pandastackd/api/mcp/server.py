"""The library's server, taught to say our errors in words: what happened, what to do, and the stable code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

from mcp.server.lowlevel.server import Server
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, InputRequiredResult, ToolAnnotations

from pandastackd.errors import PlatformError

Tool = Callable[..., Awaitable[Any]]

READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
CHANGES = ToolAnnotations(read_only_hint=False, destructive_hint=False)
DESTROYS = ToolAnnotations(read_only_hint=False, destructive_hint=True)

_REMEDIES = {
    "sandbox_not_found": "list_sandboxes shows those there are; create_sandbox makes one",
    "snapshot_not_found": "list_snapshots shows those there are",
    "template_not_found": "base and code-interpreter are always there",
    "command_timeout": "for what must run on, use nohup COMMAND >log 2>&1 & and read the log later",
    "no_capacity": "delete_sandbox frees room; or try again later",
    "insufficient_storage": "delete_sandbox frees room; or try again later",
}


class ToolServer(MCPServer[Any]):
    """Serves tools.

    Args:
        instructions: what a model is told of all of them together.
    """

    def __init__(self, instructions: str) -> None:
        super().__init__(
            "pandastack",
            title="PandaStack",
            version=version("pandastackd"),
            instructions=instructions,
            log_level="WARNING",
            subscriptions=False,
        )

    @property
    def protocol(self) -> Server[Any]:
        """What speaks the protocol."""
        return self._lowlevel_server

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Run a tool. Raises ToolError in words for whatever of ours went wrong in it."""
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            if isinstance(error.__cause__, PlatformError):
                raise ToolError(in_words(error.__cause__)) from error.__cause__
            raise


def in_words(error: PlatformError) -> str:
    """One text for a model: the message, the remedy among these tools, and the code."""
    remedy = _REMEDIES.get(error.code)
    return f"{error.message}{f'; {remedy}' if remedy else ''} (code: {error.code})"
