"""Runs inside an environment with openai-agents[e2b]: its sandbox sessions, the way its agents use them."""

# mypy: ignore-errors
# (its imports exist only in that environment)

from __future__ import annotations

import asyncio
import io
from pathlib import Path

from agents.extensions.sandbox.e2b import E2BSandboxClient, E2BSandboxClientOptions
from agents.sandbox.manifest import Manifest
from capability import run

HOME = Manifest(root="/home/user/workspace")
KIND = E2BSandboxClientOptions(sandbox_type="e2b", timeout=600, pause_on_exit=True)


async def use(session):
    """Commands and files, as the framework's shell and file tools ask for them."""
    done = await session.exec("echo ünï; echo e >&2; exit 3")
    assert (done.stdout.decode(), done.stderr.decode(), done.exit_code) == ("ünï\n", "e\n", 3), done
    await session.mkdir(Path("deep"), parents=True)
    await session.write(Path("deep/a.txt"), io.BytesIO("héllo\r\n".encode()))
    assert (await session.read(Path("deep/a.txt"))).read() == "héllo\r\n".encode()
    assert [Path(entry.path).name for entry in await session.ls(Path("deep"))] == ["a.txt"]
    await session.rm(Path("deep/a.txt"))
    assert await session.running()


def sessions(loop):
    async def work():
        client = E2BSandboxClient()
        session = await client.create(manifest=HOME, options=KIND)
        async with session:
            await use(session)

    loop.run_until_complete(work())


def terminals(loop):
    async def work():
        session = await E2BSandboxClient().create(manifest=HOME, options=KIND)
        async with session:
            started = await session.pty_exec_start("cat", tty=True, yield_time_s=1)
            update = await session.pty_write_stdin(
                session_id=started.process_id, chars="líne\n", yield_time_s=2
            )
            assert "líne" in update.output.decode(), update
            await session.pty_terminate_all()

    loop.run_until_complete(work())


def resume(loop):
    async def work():
        client = E2BSandboxClient()
        session = await client.create(manifest=HOME, options=KIND)
        async with session:
            await session.write(Path("kept"), io.BytesIO(b"1"))
            state = session.state
        again = await client.resume(state)
        async with again:
            assert (await again.read(Path("kept"))).read() == b"1"

    loop.run_until_complete(work())


def workspace(loop):
    """The folder that sessions have when they name none; it is in the root folder."""

    async def work():
        async with await E2BSandboxClient().create(options=KIND) as session:
            assert (await session.exec("pwd")).stdout == b"/workspace\n"

    loop.run_until_complete(work())


if __name__ == "__main__":
    loop = asyncio.new_event_loop()
    run((sessions, terminals, resume, workspace), loop)
