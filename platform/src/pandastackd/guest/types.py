"""The words of the guest room: what is asked of a guest and what it answers. Plain values, no I/O."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes one restored guest different from its siblings. ``None`` leaves things as they are.

    The wall clock is not in here on purpose: it is read at the moment of sending, again for every attempt. So an
    empty identity still puts the clock right, which is what a guest needs that was merely paused.

    Attributes:
        machine_id: 32 hexadecimal digits.
        entropy: fresh random bytes of the host, mixed into the guest kernel's pool; 32 to 4096.
        env: added to the environment of every process started in the sandbox.
        access_token: what the guest's public port demands from now on; empty opens it.
        reset_connections: cut TCP connections that were open when the snapshot was taken.
    """

    hostname: str | None = None
    machine_id: str | None = None
    entropy: bytes | None = field(default=None, repr=False)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    access_token: str | None = field(default=None, repr=False)
    default_user: str | None = None
    reset_connections: bool = False


@dataclass(frozen=True, slots=True)
class AgentBuild:
    """Which build of the guest agent answers; by its own word, so no more than a hint.

    Attributes:
        version: of the agent.
        envd_version: of E2B's envd, whose features it has.
        digest: SHA-256 of its program in hexadecimal; empty when it does not say.
    """

    version: str = ""
    envd_version: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True)
class AgentProgram:
    """A build of the guest agent that can be put into a guest."""

    build: AgentBuild
    program: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Command:
    """A process to start.

    Attributes:
        args: the program and its arguments; no shell is added.
        cwd: working directory; ``None`` is the user's home.
        user: who runs it; ``None`` is the sandbox's default user.
        stdin: keep an input pipe open for :meth:`GuestClient.send_input`; otherwise stdin is empty.
        timeout_seconds: the process and all its children are killed after this long; ``None`` is no limit.
        tag: a name to find the process by later.
        pty: columns and rows of a terminal to run it in; ``None`` is plain pipes.
    """

    args: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    user: str | None = None
    stdin: bool = False
    timeout_seconds: float | None = None
    tag: str | None = None
    pty: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """The first event of every process."""

    pid: int


@dataclass(frozen=True, slots=True)
class Output:
    """Raw bytes a process wrote; borders between outputs mean nothing and may cut a character in two."""

    stream: Literal["stdout", "stderr", "pty"]
    data: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """The last event of every process.

    Attributes:
        exit_code: as the process gave it; ``128 + n`` when signal ``n`` killed it; -1 when it never ran.
        signal: name of the signal that killed it, if one did.
        error: why it never ran, if it did not.
    """

    exit_code: int
    signal: str | None = None
    error: str | None = None


Event = Started | Output | Ended


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A process the guest agent started and that still runs."""

    pid: int
    args: tuple[str, ...]
    cwd: str | None
    env: Mapping[str, str]
    tag: str | None


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a short command left behind.

    Attributes:
        truncated: more output came than the limit allowed; the rest was dropped.
    """

    stdout: bytes
    stderr: bytes
    exit_code: int
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file or folder in the guest.

    Attributes:
        size: bytes.
        mode: permission bits, without the file type.
        mtime: seconds since the epoch.
        symlink_target: where it points, when it is a symbolic link.
    """

    name: str
    path: str
    is_dir: bool
    size: int = 0
    mode: int = 0
    mtime: float = 0.0
    owner: str = ""
    group: str = ""
    symlink_target: str | None = None


@dataclass(frozen=True, slots=True)
class FileReader:
    """An open download: ``size`` in bytes (``None`` when the guest does not say) and its ``chunks``."""

    size: int | None
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a sandbox uses, in bytes unless the name says otherwise.

    Attributes:
        time: seconds since the epoch, by the guest's clock.
        cpu_used_percent: of all its processors together, since somebody last looked.
    """

    time: int
    cpu_count: int
    cpu_used_percent: float
    memory_used: int
    memory_total: int
    memory_cache: int
    disk_used: int
    disk_total: int


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of what the sandbox's processes printed.

    Attributes:
        time: seconds since the epoch, by the guest's clock; 0 when the guest did not say.
    """

    stream: Literal["stdout", "stderr"]
    line: str
    time: float = 0.0
