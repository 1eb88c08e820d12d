"""Runs inside an environment with the official MCP library: what an agent does with our tools, over both transports."""

# mypy: ignore-errors
# (its imports exist only in that environment)

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack, asynccontextmanager

from capability import run
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

URL, KEY = os.environ["PANDASTACK_API"], os.environ["PANDASTACK_API_KEY"]


@asynccontextmanager
async def over_http(stack, path):
    headers = {"Authorization": f"Bearer {KEY}"}
    try:
        import httpx2
        from mcp.client.streamable_http import streamable_http_client
    except ImportError:  # before version 2
        from mcp.client.streamable_http import streamablehttp_client

        transport = streamablehttp_client(URL + path, headers=headers)
    else:
        http = await stack.enter_async_context(httpx2.AsyncClient(headers=headers, timeout=120))
        transport = streamable_http_client(URL + path, http_client=http)
    async with transport as streams:
        yield streams


@asynccontextmanager
async def over_stdio(_stack, path):
    one = path.split("/")[-2:-1] if "sandboxes" in path else []
    env = {"PANDASTACK_API": URL, "PANDASTACK_API_KEY": KEY}
    args = ["mcp", *(f"--sandbox={each}" for each in one)]
    async with stdio_client(
        StdioServerParameters(command=os.environ["PANDASTACK_COMMAND"], args=args, env=env)
    ) as streams:
        yield streams


@asynccontextmanager
async def session(transport, path="/mcp"):
    async with AsyncExitStack() as stack:
        read, write, *_ = await stack.enter_async_context(transport(stack, path))
        made = await stack.enter_async_context(ClientSession(read, write))
        await made.initialize()
        yield made


async def call(client, tool, /, **arguments):
    result = await client.call_tool(tool, arguments)
    facts = result.model_dump(by_alias=True)
    assert not facts.get("isError"), facts
    return facts["structuredContent"]


async def work(transport):
    async with session(transport) as client:
        box = (await call(client, "create_sandbox", template="base"))["sandbox_id"]
        ran = await call(client, "run_command", sandbox_id=box, command="echo ünï; echo e >&2; exit 3")
        assert (ran["exit_code"], ran["stdout"], ran["stderr"]) == (3, "ünï\n", "e\n"), ran
        ran = await call(client, "run_code", sandbox_id=box, code="print(2 ** 10)")
        assert ran["stdout"] == "1024\n", ran
        await call(client, "write_file", sandbox_id=box, path="deep/a", content="one")
        snapshot = (await call(client, "snapshot_sandbox", sandbox_id=box))["snapshot_id"]
        (child,) = (await call(client, "fork_sandbox", sandbox_id=box))["sandbox_ids"]
        await call(client, "write_file", sandbox_id=box, path="deep/a", content="two")
        assert (await call(client, "read_file", sandbox_id=child, path="deep/a"))["content"] == "one"
        await call(client, "rollback_sandbox", sandbox_id=box, snapshot_id=snapshot)
        assert (await call(client, "read_file", sandbox_id=box, path="deep/a"))["content"] == "one"
        entries = (await call(client, "list_files", sandbox_id=box, path="deep"))["entries"]
        assert [entry["name"] for entry in entries] == ["a"]
        async with session(transport, f"/v1/sandboxes/{child}/mcp") as own:
            assert (await call(own, "shell", command="cat deep/a"))["stdout"] == "one"
        for each in (box, child):
            await call(client, "delete_sandbox", sandbox_id=each)
        failed = await client.call_tool("run_command", {"sandbox_id": box, "command": "true"})
        assert "(code: sandbox_not_found)" in failed.content[0].text, failed


def http():
    asyncio.run(work(over_http))


def stdio():
    asyncio.run(work(over_stdio))


if __name__ == "__main__":
    run((http, stdio))
