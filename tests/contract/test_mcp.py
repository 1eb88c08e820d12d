"""MCP by the official client, over HTTP and over ``pandastack mcp``, against our API. Needs nothing."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import subprocess
import sys
import urllib.parse
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp import StdioServerParameters
from mcp.client.client import Client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import TextContent

from tests.contract.fake_platform import fake_platform

WORKSPACE_TOOLS = {
    *("create_sandbox", "list_sandboxes", "delete_sandbox", "run_code", "run_command", "read_file"),
    *("write_file", "list_files", "fork_sandbox", "snapshot_sandbox", "list_snapshots", "rollback_sandbox"),
    "get_preview_url",
}
PROGRAM = str(Path(sys.executable).with_name("pandastack"))
MODES = ("legacy", "auto")
"""With the handshake of 2025 and before, and without it as of 2026."""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    with fake_platform(tmp_path_factory.mktemp("platform")) as address:
        yield address


@asynccontextmanager
async def connected(
    platform: tuple[str, str], how: str, mode: str = "auto", sandbox_id: str | None = None
) -> AsyncIterator[Client]:
    url, key = platform
    async with AsyncExitStack() as stack:
        if how == "stdio":
            command = ["mcp", *(["--sandbox", sandbox_id] if sandbox_id else [])]
            env = {"PANDASTACK_API": url, "PANDASTACK_API_KEY": key}
            transport = stdio_client(StdioServerParameters(command=PROGRAM, args=command, env=env))
        else:
            headers = {"Authorization": f"Bearer {key}"}
            http = await stack.enter_async_context(httpx2.AsyncClient(headers=headers, timeout=60))
            where = f"/v1/sandboxes/{sandbox_id}/mcp" if sandbox_id else "/mcp"
            transport = streamable_http_client(url + where, http_client=http)
        yield await stack.enter_async_context(Client(transport, mode=mode))


async def call(client: Client, tool: str, **arguments: Any) -> Any:
    """What a tool that must work gives back."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    content = result.structured_content
    return content["result"] if content is not None and set(content) == {"result"} else content


async def refusal(client: Client, tool: str, **arguments: Any) -> str:
    """What a tool that must fail says."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error, result.content
    (said,) = result.content
    assert isinstance(said, TextContent)
    return said.text


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("how", ["http", "stdio"])
async def test_what_an_agent_does(platform: tuple[str, str], how: str, mode: str) -> None:
    async with connected(platform, how, mode) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == WORKSPACE_TOOLS
        box = (await call(client, "create_sandbox", template="base", metadata={"a": "ü"}))["sandbox_id"]
        listed = (await call(client, "list_sandboxes"))["sandboxes"]
        assert [each["metadata"] for each in listed if each["sandbox_id"] == box] == [{"a": "ü"}]
        ran = await call(client, "run_command", sandbox_id=box, command="echo ünï; echo e >&2; exit 3")
        assert ran == {"exit_code": 3, "stdout": "ünï\n", "stderr": "e\n", "note": None}
        ran = await call(
            client, "run_code", sandbox_id=box, code="import os\nprint(len(os.listdir()))\n1 / 0"
        )
        assert (ran["exit_code"], ran["stdout"]) == (1, "1\n")
        assert "ZeroDivisionError" in ran["stderr"]
        ran = await call(client, "run_code", sandbox_id=box, code="echo $((6 * 7))", language="bash")
        assert ran["stdout"] == "42\n"
        await call(client, "write_file", sandbox_id=box, path="deep/a", content="héllo\r\n")
        read = await call(client, "read_file", sandbox_id=box, path="deep/a")
        assert (read["content"], read["next_offset"]) == ("héllo\r\n", None)
        entries = (await call(client, "list_files", sandbox_id=box, path="deep"))["entries"]
        assert [entry["name"] for entry in entries] == ["a"]
        snapshot = (await call(client, "snapshot_sandbox", sandbox_id=box, name="before"))["snapshot_id"]
        (child,) = (await call(client, "fork_sandbox", sandbox_id=box))["sandbox_ids"]
        assert (await call(client, "run_command", sandbox_id=child, command="cat deep/a"))["exit_code"] == 0
        assert (await call(client, "rollback_sandbox", sandbox_id=box, snapshot_id=snapshot))["status"] == (
            "running"
        )
        url = await call(client, "get_preview_url", sandbox_id=box, port=3000)
        assert url == f"http://3000-{box}.localhost:{urllib.parse.urlsplit(platform[0]).port}"
        for each in (box, child):
            await call(client, "delete_sandbox", sandbox_id=each)
        said = await refusal(client, "run_command", sandbox_id=box, command="true")
        assert "(code: sandbox_not_found)" in said
        assert "create_sandbox" in said


@pytest.mark.parametrize("how", ["http", "stdio"])
async def test_one_sandbox_by_its_own_address(platform: tuple[str, str], how: str) -> None:
    async with connected(platform, "http") as client:
        box = (await call(client, "create_sandbox", template="base"))["sandbox_id"]
    async with connected(platform, how, sandbox_id=box) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert names == {"shell", "read_file", "write_file", "list_dir"}
        await call(client, "write_file", path="x", content="1")
        assert (await call(client, "shell", command="cat x"))["stdout"] == "1"
        assert (await call(client, "read_file", path="x"))["content"] == "1"
        assert "x" in [entry["name"] for entry in (await call(client, "list_dir"))["entries"]]


async def test_a_model_gets_no_more_than_it_can_read(platform: tuple[str, str]) -> None:
    async with connected(platform, "http") as client:
        box = (await call(client, "create_sandbox", template="base"))["sandbox_id"]
        ran = await call(
            client,
            "run_command",
            sandbox_id=box,
            command="echo first; head -c 5000000 /dev/zero | tr '\\0' x",
        )
        assert ran["stdout"].startswith("first\n")
        assert len(ran["stdout"]) < 40_000
        assert "bytes left out" in ran["stdout"]
        assert "bytes of stdout" in ran["note"]
        said = await refusal(
            client, "run_command", sandbox_id=box, command="echo begun; sleep 60", timeout_seconds=0.5
        )
        assert "begun" in said
        assert "(code: command_timeout)" in said
        # A character across the border of two parts comes in one of them.
        await call(client, "write_file", sandbox_id=box, path="u", content="ü" * 1000)
        part = await call(client, "read_file", sandbox_id=box, path="u", limit=333)
        assert (part["content"], part["next_offset"], part["size"]) == ("ü" * 166, 332, 2000)
        rest = await call(client, "read_file", sandbox_id=box, path="u", offset=332)
        assert (rest["content"], rest["next_offset"]) == ("ü" * 834, None)
        blob = base64.b64encode(bytes(range(256))).decode()
        await call(client, "write_file", sandbox_id=box, path="b", content=blob, encoding="base64")
        back = await call(client, "read_file", sandbox_id=box, path="b")
        assert (back["content"], back["encoding"]) == (blob, "base64")


async def test_refusals_say_what_to_do(platform: tuple[str, str]) -> None:
    async with connected(platform, "http") as client:
        box = (await call(client, "create_sandbox", template="base"))["sandbox_id"]
        assert "(code: template_not_found)" in await refusal(client, "create_sandbox", template="nope")
        assert "(code: invalid_path)" in await refusal(client, "read_file", sandbox_id=box, path="../x")
        assert "(code: invalid_timeout)" in await refusal(
            client, "run_command", sandbox_id=box, command="true", timeout_seconds=99999
        )
        assert "(code: invalid_content)" in await refusal(
            client, "write_file", sandbox_id=box, path="x", content="!", encoding="base64"
        )


def _post(platform: tuple[str, str], path: str, key: str | None, **options: Any) -> httpx.Response:
    headers = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    return httpx.post(platform[0] + path, headers=headers, **options)


def test_who_calls_is_asked_first(platform: tuple[str, str]) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    for path in ("/mcp", "/v1/mcp", "/v1/sandboxes/none/mcp"):
        assert _post(platform, path, None, json=body).json()["code"] == "key_missing"
    assert _post(platform, "/v1/sandboxes/none/mcp", platform[1], json=body).status_code == 404
    assert _post(platform, "/v1/mcp", platform[1], json=body).status_code == 200


def test_messages_are_bounded(platform: tuple[str, str]) -> None:
    assert _post(platform, "/mcp", platform[1], content=b" " * 5_000_000).status_code == 413


@pytest.mark.parametrize("version", ["2025-03-26", "2025-06-18", "2025-11-25"])
def test_protocol_versions(platform: tuple[str, str], version: str) -> None:
    hello = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
    answer = _post(platform, "/mcp", platform[1], json=body)
    data = next(line for line in answer.text.splitlines() if line.startswith("data: {"))
    assert json.loads(data.removeprefix("data: "))["result"]["protocolVersion"] == version


async def test_a_call_that_is_given_up_ends(platform: tuple[str, str], tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for how in ("http", "stdio"):
        async with connected(platform, how) as client:
            box = (await call(client, "create_sandbox", template="base"))["sandbox_id"]
            command = f"touch {mark}; while sleep 0.1; do touch {mark}; done"
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(call(client, "run_command", sandbox_id=box, command=command), 2)
            assert mark.exists()
            for _ in range(50):
                mark.unlink(missing_ok=True)
                await asyncio.sleep(0.3)
                if not mark.exists():
                    break
            assert not mark.exists()


def test_the_wire_says_what_is_wrong(platform: tuple[str, str]) -> None:
    asked = b'no json\n{"jsonrpc":"2.0","id":7,"method":"tools/list"}\n'
    done = subprocess.run(
        [PROGRAM, "mcp"],
        input=asked,
        capture_output=True,
        check=True,
        timeout=60,
        env={"PANDASTACK_API": platform[0], "PANDASTACK_API_KEY": "pds_wrong"},
    )
    unreadable, refused = (json.loads(line) for line in done.stdout.splitlines())
    assert (unreadable["id"], unreadable["error"]["code"]) == (None, -32700)
    assert refused["id"] == 7
    assert "unauthenticated" in refused["error"]["message"]


PAGE = (Path(__file__).parents[2] / "docs" / "mcp.md").read_text()


async def test_the_page_names_every_tool(platform: tuple[str, str]) -> None:
    async with connected(platform, "http") as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
    assert sorted(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == sorted(tools)


def test_the_pages_code_runs(platform: tuple[str, str]) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={"PANDASTACK_API": platform[0], "PANDASTACK_API_KEY": platform[1]},
    )
    assert (done.stdout, done.returncode) == ("hello\n\n", 0), done.stderr
