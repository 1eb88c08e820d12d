"""MCP, the Model Context Protocol: the API as tools for language models. The library speaks the protocol; the
tools are written once, over control, and ``pandastack mcp`` is only a wire to them.
"""

from __future__ import annotations

from pandastackd.api.mcp.route import root_router, router

__all__ = ["root_router", "router"]
