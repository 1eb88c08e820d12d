"""Kernels over HTTP: contexts, cells, their results and limits, and interpreters that talk nonsense. Needs nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pandastackd.api import repl
from pandastackd.control.interpreters import LANGUAGES
from tests.unit.fake_interpreter import FakeInterpreter, fake_interpreter
from tests.unit.fakes import FakeAgent, eventually

pytestmark = pytest.mark.anyio

END = {"type": "end_of_execution"}
TEMPLATE = Path(__file__).parents[3] / "templates" / "code-interpreter" / "files"


@pytest.fixture
async def interpreter() -> AsyncIterator[FakeInterpreter]:
    async with fake_interpreter() as fake:
        yield fake


@pytest.fixture
async def box(http: httpx.AsyncClient, agent: FakeAgent, interpreter: FakeInterpreter) -> str:
    """URL of a sandbox with an interpreter."""
    sandbox_id = (await http.post("/v1/sandboxes", json={})).json()["id"]
    agent.guests[sandbox_id].ports[49999] = interpreter.port
    return f"/v1/sandboxes/{sandbox_id}"


async def run(http: httpx.AsyncClient, box: str, *events: Any, **more: Any) -> httpx.Response:
    made = await http.post(f"{box}/repl/sessions", json={"language": "python"})
    url = f"{box}/repl/sessions/{made.json()['id']}/run"
    return await http.post(url, json={"code": json.dumps(events), **more})


async def test_contexts(http: httpx.AsyncClient, box: str) -> None:
    made = await http.post(f"{box}/repl/sessions", json={"language": "r"})
    assert made.status_code == 201
    assert made.json() == {"id": "c0", "language": "r", "cwd": "/h"}
    assert (await http.get(f"{box}/repl/sessions")).json() == [made.json()]
    assert (await http.post(f"{box}/repl/sessions/c0/restart")).status_code == 204
    assert (await http.delete(f"{box}/repl/sessions/c0")).status_code == 204
    assert (await http.delete(f"{box}/repl/sessions/c0")).status_code == 404
    assert (
        await http.post(f"{box}/repl/sessions/..%2F..%2Fexecute/run", json={"code": ""})
    ).status_code == 404


async def test_the_languages_are_those_of_the_template(http: httpx.AsyncClient) -> None:
    listed = (await http.get("/v1/repl/languages")).json()
    assert listed == {"languages": list(LANGUAGES), "default": "python", "template": "code-interpreter"}
    known = TEMPLATE.joinpath("interpreter", "languages.py").read_text()
    assert [
        name for name in LANGUAGES if f'name="{name}"' not in known and f'_deno("{name}"' not in known
    ] == []


async def test_a_cell_and_all_it_says(
    http: httpx.AsyncClient, box: str, interpreter: FakeInterpreter
) -> None:
    answer = await run(
        http,
        box,
        {"type": "number_of_executions", "execution_count": 1},
        {"type": "keepalive"},
        {"type": "stdout", "text": "ünï"},
        {"type": "something new"},
        {"type": "stderr", "text": "e"},
        {"type": "stdout", "text": "\u2028\n"},
        {"type": "result", "text": "1", "html": None, "png": "aGk=", "chart": {"type": "line"}, "json": [1]},
        {"type": "result", "text": "2", "is_main_result": True, "extra": {"a/b": "c"}, "data": {"a": [1]}},
        END,
        env={"A": "b"},
    )
    assert answer.status_code == 200
    cell = answer.json()
    assert cell.pop("duration_ms") >= 0
    assert cell == {
        "stdout": "ünï\u2028\n",
        "stderr": "e",
        "exit": 0,
        "exit_code": 0,
        "error": None,
        "exception": None,
        "results": [
            {
                "text/plain": "1",
                "image/png": "aGk=",
                "application/json": "[1]",
                "e2b/chart": '{"type": "line"}',
            },
            {"text/plain": "2", "a/b": "c", "e2b/data": '{"a": [1]}'},
        ],
    }
    assert interpreter.asked[0]["env_vars"] == {"A": "b"}


async def test_a_cell_that_raises(http: httpx.AsyncClient, box: str) -> None:
    raised = {"type": "error", "name": "E", "value": "v", "traceback": "\x1b[31mTrace\x1b[39m"}
    cell = (await run(http, box, raised, END)).json()
    assert (cell["exit"], cell["exit_code"], cell["error"]) == (1, 1, "Trace")
    assert cell["exception"] == {"name": "E", "value": "v", "traceback": "Trace"}
    assert (await run(http, box, {**raised, "traceback": ""}, END)).json()["error"] == "E: v"


async def test_a_kernel_that_dies_is_said(http: httpx.AsyncClient, box: str) -> None:
    cell = (await run(http, box, {"type": "unexpected_end_of_execution"})).json()
    assert cell["exit_code"] == 1
    assert "variables are gone" in cell["error"]


async def test_a_cell_out_of_its_time_is_stopped(
    http: httpx.AsyncClient, box: str, interpreter: FakeInterpreter
) -> None:
    answer = await run(http, box, {"type": "stdout", "text": "x"}, 60, END, timeout_ms=200)
    assert (answer.status_code, answer.json()["code"]) == (504, "command_timeout")
    assert "timed out after 0.2s" in answer.json()["error"]
    await eventually(lambda: interpreter.abandoned == 1, "the interpreter sees that nobody listens")
    refused = await run(http, box, END, timeout_ms=0)
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_timeout")


async def test_a_caller_who_goes_away_stops_the_cell(
    live: httpx.AsyncClient, box: str, interpreter: FakeInterpreter
) -> None:
    waiting = asyncio.create_task(run(live, box, {"type": "stdout", "text": "x"}, 60, END))
    await eventually(lambda: bool(interpreter.asked), "the cell runs")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await eventually(lambda: interpreter.abandoned == 1, "the interpreter sees that nobody listens")


async def test_too_much_to_be_answered_whole(
    http: httpx.AsyncClient, box: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repl, "MAX_CELL", 300_000)
    answer = await run(http, box, *[{"type": "stdout", "text": "x" * 65536}] * 4, END)
    assert len(answer.json()["stdout"]) == 4 * 65536
    answer = await run(http, box, *[{"type": "result", "text": "x" * 65536}] * 6, END)
    assert (answer.status_code, answer.json()["code"]) == (413, "output_too_large")


async def test_a_stream_is_to_the_letter(live: httpx.AsyncClient, box: str) -> None:
    made = await live.post(f"{box}/repl/sessions")
    events = [
        {"type": "stdout", "text": "ü\u2028"},
        {"type": "result", "text": "1", "is_main_result": True},
        {"type": "error", "name": "E", "value": "v", "traceback": ""},
        END,
    ]
    url = f"{box}/repl/sessions/{made.json()['id']}/run/stream"
    answer = await live.post(url, json={"code": json.dumps(events)})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    told, _, last = answer.text.strip().rpartition("\n\n")
    assert told == (
        'event: stdout\ndata: {"chunk": "\\u00fc\\u2028"}\n\n'
        'event: result\ndata: {"data": {"text/plain": "1"}, "is_main_result": true}\n\n'
        'event: exception\ndata: {"name": "E", "value": "v", "traceback": ""}'
    )
    assert last.startswith('event: exit\ndata: {"exit_code": 1, "duration_ms": ')
    late = await live.post(url, json={"code": json.dumps([events[0], 60]), "timeout_ms": 200})
    assert 'event: error\ndata: {"error": "timeout: the cell timed out' in late.text
    assert (await live.post(url.replace(made.json()["id"], "nope"), json={"code": ""})).status_code == 404


async def test_one_cell_in_a_kernel_of_its_own(
    http: httpx.AsyncClient, box: str, interpreter: FakeInterpreter
) -> None:
    code = json.dumps([{"type": "stdout", "text": "once"}, END])
    answer = await http.post(f"{box}/repl", json={"code": code, "language": "bash"})
    assert answer.json()["stdout"] == "once"
    await eventually(lambda: not interpreter.contexts, "the kernel is ended")
    refused = await http.post(f"{box}/repl", json={"code": "", "language": "cobol"})
    assert refused.status_code == 400
    assert "cobol is not supported" in refused.json()["error"]


@pytest.mark.parametrize(
    "events",
    [
        ["no JSON\n"],
        ["[1]\n"],
        [{"type": "stdout", "text": "and then nothing"}],
        ['{"type": "stdout", "text": ' + "[" * 100_000 + "\n"],
    ],
)
async def test_nonsense_is_one_clear_error(http: httpx.AsyncClient, box: str, events: list[Any]) -> None:
    answer = await run(http, box, *events)
    assert (answer.status_code, answer.json()["code"]) == (500, "guest_protocol")


async def test_what_json_has_no_word_for_does_not_spoil_the_answer(http: httpx.AsyncClient, box: str) -> None:
    strange = '{"type": "result", "json": NaN, "text": 5, "data": {"a": [Infinity]}}\n'
    answer = await run(http, box, strange, {"type": "stdout", "text": 7}, END)
    assert answer.json()["results"] == [{"e2b/data": '{"a": [null]}'}]
    assert answer.json()["stdout"] == ""


async def test_a_sandbox_without_an_interpreter_says_which_template_has_one(
    http: httpx.AsyncClient,
) -> None:
    sandbox_id = (await http.post("/v1/sandboxes", json={"template": "base"})).json()["id"]
    answer = await http.post(f"/v1/sandboxes/{sandbox_id}/repl/sessions", json={"language": "python"})
    assert (answer.status_code, answer.json()["code"]) == (400, "no_interpreter")
    assert "template code-interpreter" in answer.json()["error"]


async def test_another_workspace_sees_nothing(http: httpx.AsyncClient, box: str, stranger: str) -> None:
    mine = await http.post(f"{box}/repl/sessions")
    theirs = {"Authorization": f"Bearer {stranger}"}
    for method, path in (
        ("GET", "repl/sessions"),
        ("POST", "repl/sessions"),
        ("POST", f"repl/sessions/{mine.json()['id']}/run"),
        ("DELETE", f"repl/sessions/{mine.json()['id']}"),
    ):
        answer = await http.request(
            method, f"{box}/{path}", json={"code": "[]"} if "run" in path else {}, headers=theirs
        )
        assert (answer.status_code, answer.json()["code"]) == (404, "sandbox_not_found"), path
