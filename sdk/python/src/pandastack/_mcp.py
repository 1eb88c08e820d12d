"""MCP over stdin and stdout, carried to a server that speaks it over HTTP.

The tools are the server's. Here is only a wire: a line in becomes a POST, and every message of its answer becomes a
line out. What the protocol says beside the messages, in headers, is read off the messages.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
from anyio.abc import TaskGroup

from pandastack import _wire
from pandastack._async._http import AsyncHttp
from pandastack._sse import SseDecoder
from pandastack._wire import Call
from pandastack.errors import PandastackError

GRACE_SECONDS = 5.0
"""How long calls under way get once stdin has ended."""

_ACCEPT = "application/json, text/event-stream"
_VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
_NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
_FAILED = -32000
_UNREADABLE = -32700

Message = dict[str, Any]


class McpWire:
    """One client on this side, one address on the other.

    Args:
        path: of the MCP endpoint, below ``/v1``.
        read_line: the next line of input, empty at its end.
        write: takes one line of output.
    """

    def __init__(
        self,
        http: AsyncHttp,
        path: str,
        read_line: Callable[[], Awaitable[bytes]],
        write: Callable[[bytes], Awaitable[None]],
    ) -> None:
        self._http = http
        self._path = path
        self._read_line = read_line
        self._write = write
        self._writing = anyio.Lock()
        self._version: str | None = None
        self._under_way: dict[str | int, anyio.CancelScope] = {}

    async def run(self) -> None:
        """Carry messages until the input ends."""
        async with anyio.create_task_group() as calls:
            while line := await self._read_line():
                if line.strip():
                    await self._take(line, calls)
            calls.cancel_scope.deadline = anyio.current_time() + GRACE_SECONDS

    async def _take(self, line: bytes, calls: TaskGroup) -> None:
        try:
            message = json.loads(line)
        except ValueError as error:
            await self._refuse(None, _UNREADABLE, f"a line of input is not JSON: {error}")
            return
        if not isinstance(message, dict):
            await self._refuse(None, _UNREADABLE, "a line of input is not one JSON-RPC message")
        elif message.get("method") == "notifications/cancelled":
            # Going away is what tells the server: it ends the call, and the command that the call was running.
            if scope := self._under_way.get(_params(message).get("requestId", "")):
                scope.cancel()
        elif message.get("method") == "initialize":
            # What follows depends on the version that the answer names.
            await self._carry(message)
        else:
            calls.start_soon(self._carry, message)

    async def _carry(self, message: Message) -> None:
        number = message.get("id")
        with anyio.CancelScope() as scope:
            if number is not None:
                self._under_way[number] = scope
            try:
                await self._exchange(message)
            except PandastackError as error:
                if number is not None:
                    code = f" (code: {error.code})" if error.code else ""
                    await self._refuse(number, _FAILED, f"{error.message}{code}")
            finally:
                self._under_way.pop(number or "", None)

    async def _exchange(self, message: Message) -> None:
        call = Call("POST", self._path, json=message, headers=self._headers(message), timeout_seconds=None)
        async with self._http.answer(call) as response:
            if response.headers.get("content-type", "").startswith("text/event-stream"):
                decoder = SseDecoder()
                async for piece in response.aiter_bytes():
                    for event in decoder.feed(piece):
                        await self._hand_out(json.loads(event.data))
                return
            body = await response.aread()
            answer = _wire.decode(body) if body.startswith(b"{") else None
            if isinstance(answer, dict) and "jsonrpc" in answer:
                await self._hand_out(answer)
            elif not response.is_success:
                raise _wire.api_error(response.status_code, response.headers, body)

    def _headers(self, message: Message) -> dict[str, str]:
        method, params = str(message.get("method", "")), _params(message)
        headers = {"Accept": _ACCEPT}
        meta = params.get("_meta")
        own = meta.get(_VERSION_KEY) if isinstance(meta, Mapping) else None
        if version := own or self._version:
            headers["MCP-Protocol-Version"] = str(version)
        if own:
            headers["Mcp-Method"] = method
            if key := _NAMED.get(method):
                headers["Mcp-Name"] = _header_text(str(params.get(key, "")))
        return headers

    async def _hand_out(self, message: Message) -> None:
        result = message.get("result")
        if isinstance(result, Mapping) and isinstance(result.get("protocolVersion"), str):
            self._version = result["protocolVersion"]
        async with self._writing:
            await self._write(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    async def _refuse(self, number: str | int | None, code: int, text: str) -> None:
        await self._hand_out({"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": text}})


def _params(message: Message) -> Mapping[str, Any]:
    params = message.get("params")
    return params if isinstance(params, Mapping) else {}


def _header_text(text: str) -> str:
    """Text as a header may carry it: plain where that is possible."""
    if re.fullmatch(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?", text):
        return text
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="
