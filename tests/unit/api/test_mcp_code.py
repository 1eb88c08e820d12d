"""MCP's `run_code` over kernels: one a language, what comes back, and its limits. Needs nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.unit.fake_interpreter import FakeInterpreter, fake_interpreter
from tests.unit.fakes import FakeAgent, eventually

pytestmark = pytest.mark.anyio

END = {"type": "end_of_execution"}


@pytest.fixture
async def interpreter() -> AsyncIterator[FakeInterpreter]:
    async with fake_interpreter() as fake:
        yield fake


@pytest.fixture
async def box(live: httpx.AsyncClient, agent: FakeAgent, interpreter: FakeInterpreter) -> str:
    """Id of a sandbox with an interpreter."""
    sandbox_id = str((await live.post("/v1/sandboxes", json={})).json()["id"])
    agent.guests[sandbox_id].ports[49999] = interpreter.port
    return sandbox_id


async def run(http: httpx.AsyncClient, box: str, *events: Any, **more: Any) -> dict[str, Any]:
    """The tool's result."""
    arguments = {"sandbox_id": box, "code": json.dumps(events), **more}
    answer = await http.post(
        "/mcp",
        json={
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": "run_code", "arguments": arguments},
        },
        headers={"Accept": "application/json, text/event-stream"},
    )
    data = next(line for line in answer.text.splitlines() if line.startswith("data: {"))
    result: dict[str, Any] = json.loads(data.removeprefix("data: "))["result"]
    return result


async def test_calls_of_one_language_share_a_kernel(
    live: httpx.AsyncClient, box: str, interpreter: FakeInterpreter
) -> None:
    for language in ("python", "r", "python"):
        await run(live, box, END, language=language)
    assert [context["language"] for context in interpreter.contexts.values()] == ["python", "r"]
    assert [cell["context_id"] for cell in interpreter.asked] == ["c0", "c1", "c0"]


async def test_what_comes_back(live: httpx.AsyncClient, box: str) -> None:
    done = await run(
        live,
        box,
        {"type": "stdout", "text": "ünï\n"},
        {"type": "stderr", "text": "e\n"},
        {"type": "result", "text": "42", "is_main_result": True},
        {"type": "result", "png": "aWNr", "is_main_result": False},
        END,
    )
    assert done["structuredContent"] == {
        "exit_code": 0,
        "stdout": "ünï\n",
        "stderr": "e\n",
        "result": "42",
        "note": "not sent: image/png; save it to a file, and read that",
    }
    raised = {"type": "error", "name": "E", "value": "v", "traceback": "\x1b[31mTraceback\x1b[0m: E"}
    done = await run(live, box, raised, END)
    assert not done.get("isError")
    failed = done["structuredContent"]
    assert (failed["exit_code"], failed["stderr"], failed["result"]) == (1, "Traceback: E\n", None)


async def test_output_and_time_are_bounded(
    live: httpx.AsyncClient, box: str, interpreter: FakeInterpreter
) -> None:
    done = await run(live, box, {"type": "stdout", "text": "x" * 1_000_000}, END)
    assert len(done["structuredContent"]["stdout"]) < 40_000
    assert "bytes of stdout" in done["structuredContent"]["note"]
    late = await run(live, box, {"type": "stdout", "text": "begun"}, 60, END, timeout_seconds=0.3)
    assert late["isError"]
    assert "begun" in late["content"][0]["text"]
    assert "(code: command_timeout)" in late["content"][0]["text"]
    await eventually(lambda: interpreter.abandoned == 1, "the cell is stopped")


async def test_a_language_that_only_kernels_have(live: httpx.AsyncClient) -> None:
    bare = (await live.post("/v1/sandboxes", json={"template": "base"})).json()["id"]
    refused = await run(live, bare, END, language="r")
    assert refused["isError"]
    assert "(code: no_interpreter)" in refused["content"][0]["text"]
