"""Terminals and commands over WebSockets: real shells of this machine behind a real server. Needs nothing."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from pandastackd.control import Control
from tests.unit.fakes import FakeAgent, eventually, flat_memory, is_alive

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sandbox_id(live: httpx.AsyncClient) -> str:
    made: str = (await live.post("/v1/sandboxes", json={"template": "base"})).json()["id"]
    return made


def socket(live: httpx.AsyncClient, sandbox_id: str, route: str, **query: object) -> connect:
    url = (
        str(live.base_url).replace("http", "ws")
        + f"/v1/sandboxes/{sandbox_id}/{route}?{urlencode(query, doseq=True)}"
    )
    return connect(url, additional_headers={"Authorization": live.headers["authorization"]}, max_size=None)


async def until(ws: ClientConnection, text: bytes) -> bytes:
    seen = b""
    async with asyncio.timeout(20):
        while text not in seen:
            piece = await ws.recv()
            assert isinstance(piece, bytes), piece
            seen += piece
    return seen


async def rest(ws: ClientConnection) -> tuple[bytes, list[dict[str, Any]]]:
    """What comes until the socket is closed: output, and messages."""
    output, messages = b"", []
    async with asyncio.timeout(30):
        with contextlib.suppress(ConnectionClosedError):
            async for piece in ws:
                if isinstance(piece, bytes):
                    output += piece
                else:
                    messages.append(json.loads(piece))
    return output, messages


async def test_a_shell_in_a_terminal(live: httpx.AsyncClient, sandbox_id: str) -> None:
    async with socket(live, sandbox_id, "ssh", rows=31, cols=97) as ws:
        await ws.send(b"stty size; echo $TERM\n")
        await until(ws, b"31 97\r\nxterm-256color")
        await ws.send(json.dumps({"resize": {"rows": 40, "cols": 120}}))
        await ws.send(b"stty size\n")
        await until(ws, b"40 120")
        await ws.send("printf 'ü\\0%s' x; exit 7\n".encode())
        output, messages = await rest(ws)
        assert "ü\0x".encode() in output
        assert messages == [{"exit": 7}]
        assert ws.close_code == 1000


@pytest.mark.parametrize("route", ["exec/pty", "exec/stdio"])
async def test_a_program_is_given_a_folder_an_environment_and_a_user(
    live: httpx.AsyncClient, sandbox_id: str, agent: FakeAgent, route: str
) -> None:
    (agent.guests[sandbox_id].home / "work").mkdir()
    how = {"cwd": "/work", "user": "root", "env": ["A=x=ü y", "B="]}
    async with socket(live, sandbox_id, route, cmd='basename "$PWD"; echo "<$A$B>"', **how) as ws:
        output, messages = await rest(ws)
    assert output.decode().splitlines() == ["work", "<x=ü y>"]
    assert messages == [{"exit": 0}]


@pytest.mark.parametrize(
    "wrong",
    [
        {"cwd": "/nowhere"},
        {"user": "a:b"},
        {"user": "nobody-here"},
        {"env": "=x"},
        {"timeout": "5"},
        {"cwd": ""},
    ],
)
@pytest.mark.parametrize("route", ["exec/pty", "exec/stdio"])
async def test_what_no_program_can_be_given_is_refused(
    live: httpx.AsyncClient, sandbox_id: str, route: str, wrong: dict[str, str]
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await socket(live, sandbox_id, route, cmd="true", **wrong).__aenter__()
    assert refused.value.response.status_code == 400
    assert json.loads(refused.value.response.body or b"")["code"] in {"invalid_request", "unknown_field"}


async def test_control_c_interrupts(live: httpx.AsyncClient, sandbox_id: str) -> None:
    # Short naps: one that is just being started when the signal comes does not hear it, and the trap waits for its end.
    cmd = "trap 'echo caught; exit 3' INT; echo go; while :; do sleep 0.1; done"
    async with socket(live, sandbox_id, "exec/pty", cmd=cmd) as ws:
        await until(ws, b"go")
        await ws.send(b"\x03")
        output, messages = await rest(ws)
        assert b"caught" in output
        assert messages == [{"exit": 3}]


async def test_pipes_carry_every_byte(live: httpx.AsyncClient, sandbox_id: str) -> None:
    blob = bytes(range(256)) * 1000
    async with socket(
        live, sandbox_id, "exec/stdio", cmd="cat; echo ünï >&2; printf '\\377' >&2; exit 4"
    ) as ws:
        for start in range(0, len(blob), 10_000):
            await ws.send(blob[start : start + 10_000])
        await ws.send(json.dumps({"eof": True}))
        output, messages = await rest(ws)
    assert output == blob
    assert messages.pop() == {"exit": 4}
    exact = b"".join(base64.b64decode(each.get("base64", "")) or each["stderr"].encode() for each in messages)
    assert exact == "ünï\n".encode() + b"\xff"


async def test_a_client_that_stops_reading_stops_the_program(
    live: httpx.AsyncClient, sandbox_id: str
) -> None:
    with flat_memory(64):
        async with socket(live, sandbox_id, "exec/stdio", cmd="yes") as ws:
            await ws.recv()
            await asyncio.sleep(1)
            ws.transport.abort()


@pytest.mark.parametrize("route", ["exec/pty", "exec/stdio"])
async def test_a_client_that_vanishes_ends_the_program(
    live: httpx.AsyncClient, sandbox_id: str, agent: FakeAgent, control: Control, route: str
) -> None:
    guest = agent.guests[sandbox_id]
    async with socket(live, sandbox_id, route, cmd="echo go; while true; do sleep 0.1; done") as ws:
        await until(ws, b"go")
        (pid,) = guest.running
        assert control.usage.is_active(sandbox_id)
        ws.transport.abort()
    await eventually(lambda: not is_alive(pid), "the program ends")
    await eventually(lambda: not control.usage.is_active(sandbox_id), "the sandbox is unused")


async def test_deleting_the_sandbox_closes_the_socket_in_words(
    live: httpx.AsyncClient, sandbox_id: str
) -> None:
    async with socket(live, sandbox_id, "ssh") as ws:
        await ws.send(b"echo rea''dy\n")
        await until(ws, b"ready")
        assert (await live.delete(f"/v1/sandboxes/{sandbox_id}")).status_code == 204
        _, messages = await rest(ws)
        assert messages
        assert messages[-1].get("code", "sandbox_deleted") == "sandbox_deleted"


async def test_what_cannot_be_served_is_an_ordinary_answer(live: httpx.AsyncClient, sandbox_id: str) -> None:
    async def refused(target: str, route: str, **query: object) -> tuple[int, str]:
        with pytest.raises(InvalidStatus) as refusal:
            async with socket(live, target, route, **query):
                pass
        response = refusal.value.response
        return response.status_code, json.loads(response.body or b"{}")["code"]

    assert await refused("nope", "ssh") == (404, "sandbox_not_found")
    assert await refused(sandbox_id, "ssh", rows=0) == (400, "invalid_size")
    assert await refused(sandbox_id, "ssh", rows="many") == (400, "invalid_size")
    assert await refused(sandbox_id, "exec/stdio") == (400, "invalid_request")
    await live.post(f"/v1/sandboxes/{sandbox_id}/pause")
    assert (await refused(sandbox_id, "ssh"))[0] == 409
    live.headers["authorization"] = ""
    assert await refused(sandbox_id, "ssh") == (401, "key_missing")


async def test_browsers_show_the_key_in_the_query(live: httpx.AsyncClient, sandbox_id: str) -> None:
    key = live.headers.pop("authorization").removeprefix("Bearer ")
    live.headers["authorization"] = ""
    async with socket(live, sandbox_id, "exec/pty", cmd="echo let in", access_token=key) as ws:
        output, _ = await rest(ws)
    assert b"let in" in output


async def test_messages_that_mean_nothing_end_the_socket(live: httpx.AsyncClient, sandbox_id: str) -> None:
    for message in ("ls\n", '{"resize": {"rows": "many", "cols": 1}}', "[" * 100_000):
        async with socket(live, sandbox_id, "ssh") as ws:
            await ws.send(message)
            _, messages = await rest(ws)
            assert messages[-1]["code"] == "invalid_message"
            assert ws.close_code == 1008


async def test_many_commands_over_one_socket(live: httpx.AsyncClient, sandbox_id: str) -> None:
    async with socket(live, sandbox_id, "exec/ws") as ws:
        asks = (
            {"id": "a", "cmd": "printf 'ü\\377'; echo e >&2; exit 3"},
            {"id": 2, "cmd": "sleep 60"},
            {"id": "c", "cmd": "sleep 60", "timeout_seconds": 0.2},
            {"id": 2, "cmd": "true"},
            {"id": "d"},
            {"id": 2, "cancel": True},
        )
        for ask in asks:
            await ws.send(json.dumps(ask))
        said: dict[str | int, list[dict[str, Any]]] = {"a": [], 2: [], "c": [], "d": []}
        ends = 0
        while ends < 5:
            message = json.loads(await asyncio.wait_for(ws.recv(), 20))
            ends += "exit" in message or "error" in message
            said[message.pop("id")].append(message)
        assert said["a"].pop() == {"exit": 3}
        assert {"stream": "stderr", "data": "e\n"} in said["a"]
        exact = [base64.b64decode(each["base64"]) for each in said["a"] if "base64" in each]
        assert b"".join(exact).endswith(b"\xff")
        assert [each["code"] for each in said[2]] == ["id_in_use", "cancelled"]
        assert [each["code"] for each in said["c"]] == ["command_timeout"]
        assert "deadline exceeded" in said["c"][0]["error"]
        assert said["d"][0]["code"] == "invalid_request"


async def test_commands_of_a_socket_end_with_it(
    live: httpx.AsyncClient, sandbox_id: str, agent: FakeAgent
) -> None:
    async with socket(live, sandbox_id, "exec/ws") as ws:
        for name in range(3):
            await ws.send(json.dumps({"id": name, "cmd": "echo go; sleep 60"}))
        for _ in range(3):
            await ws.recv()
        pids = list(agent.guests[sandbox_id].running)
        assert len(pids) == 3
    await eventually(lambda: not any(is_alive(pid) for pid in pids), "all commands end")
