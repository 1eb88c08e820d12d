"""Another build of the guest agent in the place of the one that came out of a snapshot.

The agent that runs checks the program, rehearses it and executes it in its own place; it answers just before. Until
the new build serves, connections wait in the guest's kernel: so the next answer tells who serves from now on.
"""

from __future__ import annotations

import re
from typing import Final

from pandastackd.errors import Conflict, GuestUnreachable, HostFailure, PlatformError
from pandastackd.guest.connect_protocol import Json, decode_json, text
from pandastackd.guest.faults import clean
from pandastackd.guest.transport import Channel
from pandastackd.guest.types import AgentBuild, AgentProgram

BUILD_HEADER: Final = b"x-pandastack-agent"
_WORD = re.compile(r"[0-9A-Za-z.+-]{1,32}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class UpgradeRefused(Conflict):
    """The guest goes on with the build of the agent that it has."""

    code = "agent_not_upgraded"


def read_build(answered: dict[bytes, bytes]) -> AgentBuild:
    """The build that an answer's headers tell of; empty when they tell of none that can be one."""
    words = answered.get(BUILD_HEADER, b"").decode("latin-1").split(" ")
    return _build(*words) if len(words) == 3 else AgentBuild()


async def ask_build(channel: Channel) -> tuple[AgentBuild, str]:
    """Which build answers, and why it is not the one that was last to take its place, if that failed."""
    message = decode_json(await channel.collect("ask for the agent's version", "GET", "/version"))
    build = _build(_text(message, "agentVersion"), _text(message, "envdVersion"), _text(message, "digest"))
    return build, clean(_text(message, "upgradeFailure"))


async def put_in_place(channel: Channel, program: AgentProgram) -> AgentBuild:
    """Send ``program`` and return once it serves.

    Raises:
        UpgradeRefused: the build that was there serves on; says why.
        GuestUnreachable: neither answers.
    """
    headers = {
        b"Content-Type": b"application/octet-stream",
        b"X-Pandastack-Sha256": program.build.digest.encode("ascii"),
    }
    try:
        await channel.collect(
            "upgrade the guest agent", "POST", "/upgrade", headers=headers, body=program.program
        )
    except GuestUnreachable:
        raise
    except PlatformError as refused:
        raise _refused(refused.message) from refused
    build, failure = await ask_build(channel)
    if build.digest != program.build.digest:
        raise _refused(failure or "the new build did not take over")
    return build


def _refused(why: str) -> UpgradeRefused:
    return UpgradeRefused(f"the guest agent stays the one of the snapshot: {why}")


def _build(version: str, envd_version: str, digest: str) -> AgentBuild:
    if not (_WORD.fullmatch(version) and _WORD.fullmatch(envd_version)):
        return AgentBuild()
    return AgentBuild(version, envd_version, digest if _DIGEST.fullmatch(digest) else "")


def _text(message: Json, key: str) -> str:
    try:
        return text(message, key)
    except HostFailure:
        return ""
