"""A sandbox that was put away with another build of the guest agent comes back with this host's, and nothing that ran
in it notices.

Needs root, QEMU and the templates.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import aclosing
from dataclasses import replace

from pandastack import PandaStack, Sandbox
from pandastackd.agent.guest_program import load_program
from pandastackd.child_server import ChildServer
from pandastackd.guest import AgentProgram, Command, Ended, Event, Output, Started
from pandastackd.programs import find_program

from .control_link import control_client

LINES = 60_000
COUNT = f"trap '' HUP; seq {LINES}; read line; echo said $line; exit 7"


def test_a_running_command_outlives_its_agent(
    server: ChildServer, client: PandaStack, sandbox: Sandbox
) -> None:
    ours = asyncio.run(load_program(find_program("guest-agent")))
    other = ours.program + b"a build from another day"
    theirs = AgentProgram(replace(ours.build, digest=hashlib.sha256(other).hexdigest()), other)

    async def put_away() -> tuple[int, int, bytes]:
        """The command's pid, its terminal's, and what was read of its output before the agent was replaced."""
        async with control_client(server.data_dir, sandbox.id) as guest:
            assert await guest.build() == ours.build, "a create puts no other agent in than the one it baked"
            count = Command(("/bin/bash", "-c", COUNT), stdin=True)
            seen = b""
            async with (
                aclosing(guest.start(Command(("/bin/bash", "-i"), pty=(80, 24)))) as screen,
                aclosing(guest.start(count)) as events,
            ):
                shell, started = await anext(screen), await anext(events)
                assert isinstance(shell, Started)
                assert isinstance(started, Started)
                while len(seen) < 50_000:
                    event = await anext(events)
                    assert isinstance(event, Output)
                    seen += event.data
            assert await guest.upgrade(theirs) == theirs.build
            await guest.send_input(shell.pid, b"kept=in''side\n", pty=True)
            return started.pid, shell.pid, seen

    async def take_up(counting: int, shell: int, seen: bytes) -> None:
        async with control_client(server.data_dir, sandbox.id) as guest:
            assert await guest.build() == ours.build
            events: list[Event] = []
            async with aclosing(guest.attach(counting, len(seen))) as following:
                await guest.send_input(counting, b"after\n")
                events += [event async for event in following]
            whole = seen + b"".join(event.data for event in events if isinstance(event, Output))
            expected = "".join(f"{number}\n" for number in range(1, LINES + 1)) + "said after\n"
            assert whole.decode() == expected
            assert events[-1] == Ended(7)
            screen = b""
            async with aclosing(guest.attach(shell)) as following:
                await guest.resize(shell, 132, 43)
                await guest.send_input(shell, b"stty size; echo $kept; exit\n", pty=True)
                screen = b"".join([event.data async for event in following if isinstance(event, Output)])
            assert b"43 132" in screen
            assert b"\ninside" in screen

    counting, shell, seen = asyncio.run(put_away())
    sandbox.hibernate()
    sandbox.wake()
    asyncio.run(take_up(counting, shell, seen))
    # The token, the environment and the user are what they were; the API works as before.
    assert sandbox.exec("id -un; ps -o comm= -C guest-agent", check=True).stdout == "user\nguest-agent\n"

    # The supervisor would start the new build, not the one that the machine was booted with.
    started = sandbox.exec("sudo sha256sum /run/pandastack/guest-agent", check=True).stdout
    assert started.split()[0] == ours.build.digest


def test_a_fork_of_such_a_sandbox_has_this_host_s_agent(
    server: ChildServer, client: PandaStack, sandbox: Sandbox
) -> None:
    ours = asyncio.run(load_program(find_program("guest-agent")))
    other = ours.program + b"yet another"
    theirs = AgentProgram(replace(ours.build, digest=hashlib.sha256(other).hexdigest()), other)

    async def builds(child: Sandbox) -> tuple[str, str]:
        async with control_client(server.data_dir, child.id) as guest:
            return (await guest.build()).digest, (
                await guest.run(Command(("cat", "/dev/shm/x")))
            ).stdout.decode()

    async def replace_agent() -> None:
        async with control_client(server.data_dir, sandbox.id) as guest:
            await guest.run(Command(("/bin/sh", "-c", "echo memory > /dev/shm/x")))
            await guest.upgrade(theirs)

    asyncio.run(replace_agent())
    with sandbox.fork() as child:
        assert asyncio.run(builds(child)) == (ours.build.digest, "memory\n")
    assert asyncio.run(builds(sandbox)) == (theirs.build.digest, "memory\n")
