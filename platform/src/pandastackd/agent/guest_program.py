"""This host's own build of the guest agent, and putting it into guests that carry another one."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
from pathlib import Path

import structlog

from pandastackd.errors import HostFailure
from pandastackd.guest import AgentBuild, AgentProgram, GuestClient
from pandastackd.guest.upgrade import UpgradeRefused

log = structlog.get_logger(__name__)

ASK_SECONDS = 10.0


async def load_program(path: Path) -> AgentProgram:
    """The build at ``path``, which tells its versions itself.

    Raises:
        HostFailure: it is not a guest agent that runs here.
    """
    return await asyncio.to_thread(_load, path)


def _load(path: Path) -> AgentProgram:
    try:
        program = path.read_bytes()
        asked = subprocess.run([path, "--about"], capture_output=True, timeout=ASK_SECONDS, check=True)
        about = json.loads(asked.stdout)
        build = AgentBuild(
            str(about["agentVersion"]), str(about["envdVersion"]), hashlib.sha256(program).hexdigest()
        )
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        raise HostFailure(
            f"the guest agent {path} does not tell its version ({error}); run `make setup`",
            code="not_installed",
        ) from error
    return AgentProgram(build, program)


async def bring_up_to_date(
    guest: GuestClient, build: AgentBuild, program: AgentProgram, *, sandbox_id: str
) -> AgentBuild:
    """Put this host's build of the agent into a guest that answered with another; the build that serves then.

    A guest whose agent cannot be replaced, because it is too old to know how or does not want to, goes on with it.

    Raises:
        GuestUnreachable: no agent answers any more.
    """
    if build.digest == program.build.digest:
        return build
    if not build.version:
        return await guest.build()
    try:
        new = await guest.upgrade(program)
    except UpgradeRefused as refused:
        log.warning("guest_agent.not_upgraded", sandbox=sandbox_id, had=build.version, reason=refused.message)
        return build
    log.info("guest_agent.upgraded", sandbox=sandbox_id, had=build.version, has=new.version)
    return new
