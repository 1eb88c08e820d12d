"""Client of the guest agent over any byte stream.

Knows the guest's protocol (envd: Connect over HTTP/1.1) and its bounds. Does not know how the stream to the
guest is made: whoever owns the network hands in ``connect(port)``.
"""

from pandastackd.guest.client import GuestClient
from pandastackd.guest.types import (
    AgentBuild,
    AgentProgram,
    Command,
    Ended,
    Event,
    FileInfo,
    FileReader,
    Identity,
    LogLine,
    Output,
    ProcessInfo,
    RunResult,
    Started,
)

__all__ = [
    "AgentBuild",
    "AgentProgram",
    "Command",
    "Ended",
    "Event",
    "FileInfo",
    "FileReader",
    "GuestClient",
    "Identity",
    "LogLine",
    "Output",
    "ProcessInfo",
    "RunResult",
    "Started",
]
