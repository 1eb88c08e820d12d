"""Putting another build of the agent in place: what the host believes, and the real agent replaced on this machine.

The last test needs root and a built `guest-agent`; no VM.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import subprocess
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from pandastackd.agent.guest_program import bring_up_to_date, load_program
from pandastackd.errors import HostFailure, PlatformError
from pandastackd.guest import AgentBuild, AgentProgram, Command, Ended, GuestClient, Identity, Output, Started
from pandastackd.guest.upgrade import UpgradeRefused, read_build
from pandastackd.programs import find_program

from .conftest import Conversation

pytestmark = pytest.mark.anyio

OURS = AgentProgram(AgentBuild("2.0", "0.7.0", "b" * 64), b"program")
THEIRS = AgentBuild("1.0", "0.6.7", "a" * 64)


def version(digest: str, **more: object) -> bytes:
    return json.dumps({"agentVersion": "2.0", "envdVersion": "0.7.0", "digest": digest, **more}).encode()


@pytest.mark.parametrize(
    ("header", "build"),
    [
        (b"1.0 0.6.7 " + b"a" * 64, THEIRS),
        (b"1.0 0.6.7 zz", AgentBuild("1.0", "0.6.7")),
        (b"1.0 0.6.7", AgentBuild()),
        (b"1.0 <script> " + b"a" * 64, AgentBuild()),
        (b"", AgentBuild()),
        (b"\xff \x00 x", AgentBuild()),
    ],
)
def test_a_build_is_believed_only_if_it_can_be_one(header: bytes, build: AgentBuild) -> None:
    assert read_build({b"x-pandastack-agent": header}) == build


async def test_the_same_build_costs_no_question(scripted: Callable[..., Any]) -> None:
    async def script(talk: Conversation) -> None:
        await talk.request()
        await talk.reply(status="204 No Content", headers=f"X-Pandastack-Agent: 2.0 0.7.0 {'b' * 64}\r\n")

    async with scripted(script) as (client, guest):
        build = await client.introduce(Identity(), deadline_seconds=5)
        assert await bring_up_to_date(client, build, OURS, sandbox_id="x") == OURS.build
        assert guest.connections == 1


async def test_another_build_is_replaced(scripted: Callable[..., Any]) -> None:
    seen: list[tuple[str, str, bytes]] = []

    async def script(talk: Conversation) -> None:
        for answer in (b"{}", version("b" * 64)):
            first, headers, body = await talk.request()
            seen.append((first, headers.get("x-pandastack-sha256", ""), body))
            await talk.reply(answer)

    async with scripted(script) as (client, _):
        assert await bring_up_to_date(client, THEIRS, OURS, sandbox_id="x") == OURS.build
    assert seen[0] == ("POST /upgrade HTTP/1.1", "b" * 64, b"program")
    assert seen[1][0] == "GET /version HTTP/1.1"


@pytest.mark.parametrize(
    ("status", "answer", "after", "word"),
    [
        ("409 Conflict", b'{"code":409,"message":"it cannot take over"}', b"", "cannot take over"),
        ("404 Not Found", b'{"code":404,"message":"there is no such route"}', b"", "no such route"),
        ("202 Accepted", b"{}", version("a" * 64, upgradeFailure="ran out of luck"), "ran out of luck"),
        ("202 Accepted", b"{}", version("a" * 64, upgradeFailure=7), "did not take over"),
    ],
)
async def test_a_guest_that_keeps_its_build_goes_on_with_it(
    scripted: Callable[..., Any], status: str, answer: bytes, after: bytes, word: str
) -> None:
    async def script(talk: Conversation) -> None:
        await talk.request()
        await talk.reply(answer, status=status)
        await talk.request()
        await talk.reply(after)

    async with scripted(script) as (client, _):
        with pytest.raises(UpgradeRefused, match=word):
            await client.upgrade(OURS)
    async with scripted(script) as (client, _):
        assert await bring_up_to_date(client, THEIRS, OURS, sandbox_id="x") == THEIRS


async def test_an_agent_too_old_to_say_is_asked_and_left_alone(scripted: Callable[..., Any]) -> None:
    async def script(talk: Conversation) -> None:
        first, _, _ = await talk.request()
        assert first == "GET /version HTTP/1.1"
        await talk.reply(b'{"envdVersion":"0.6.1","agentVersion":"0.0.9"}')

    async with scripted(script) as (client, _):
        build = await bring_up_to_date(client, AgentBuild(), OURS, sandbox_id="x")
    assert build == AgentBuild("0.0.9", "0.6.1")


async def test_a_program_that_is_no_agent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostFailure, match="make setup"):
        await load_program(Path("/bin/false"))
    with pytest.raises(HostFailure, match="make setup"):
        await load_program(tmp_path / "missing")


@pytest.mark.needs("root")
async def test_a_running_command_goes_on_in_the_real_agent(tmp_path: Path) -> None:
    try:
        path = find_program("guest-agent")
    except PlatformError:
        pytest.skip("needs guest-agent: `make setup` builds it")
    ours = await load_program(path)
    other = ours.program + b"another build"
    theirs = AgentProgram(AgentBuild("9.9", "0.0.1", hashlib.sha256(other).hexdigest()), other)
    ports = []
    for _ in range(2):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            ports.append(f"127.0.0.1:{sock.getsockname()[1]}")
    process = subprocess.Popen(
        [path, "--public", ports[0], "--control", ports[1], "--cgroup-root", str(tmp_path)]
    )

    async def connect(port: int) -> socket.socket:
        del port
        sock = socket.socket()
        sock.setblocking(False)
        try:
            host, number = ports[1].split(":")
            await asyncio.get_running_loop().sock_connect(sock, (host, int(number)))
        except BaseException:
            sock.close()
            raise
        return sock

    try:
        async with GuestClient(connect) as client:
            await client.ping(deadline_seconds=20)
            build = await client.build()
            assert build == ours.build
            command = Command(("/bin/sh", "-c", "echo one; read x; echo $x"), user="root", stdin=True)
            async with aclosing(client.start(command)) as events:
                started = await anext(events)
                assert isinstance(started, Started)
                assert await anext(events) == Output("stdout", b"one\n")
                new = await bring_up_to_date(client, build, theirs, sandbox_id="x")
            # It tells its own versions, not those that it was announced with.
            assert new == AgentBuild(ours.build.version, ours.build.envd_version, theirs.build.digest)
            await client.send_input(started.pid, b"two\n")
            async with aclosing(client.attach(started.pid, 2)) as events:
                seen = [event async for event in events]
            assert b"".join(event.data for event in seen if isinstance(event, Output)) == b"e\ntwo\n"
            assert seen[-1] == Ended(0)
    finally:
        process.kill()
        process.wait()
