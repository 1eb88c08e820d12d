"""Domain types that cross rooms: what a sandbox is asked to be, and what became of it.

Sizes are MiB, times are milliseconds unless the name says otherwise. These are plain frozen values: no I/O, no
behaviour beyond derivation.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Network
from typing import Final

from pandastackd.errors import PlatformError
from pandastackd.lifecycle import State


@dataclass(frozen=True, slots=True)
class Phases:
    """How long each step of a create took, in milliseconds.

    ``slot``, ``disk`` and the start of ``vmm`` overlap where the host allows; ``total`` is the wall clock of the whole,
    so the platform's own share is ``total - vmm - load - guest``.
    """

    slot: float = 0.0
    disk: float = 0.0
    vmm: float = 0.0
    load: float = 0.0
    guest: float = 0.0
    total: float = 0.0

    def as_dict(self) -> dict[str, float]:
        """The phases rounded to a hundredth of a millisecond, keyed as the API names them."""
        return {name: round(value, 2) for name, value in asdict(self).items()}


SPECIAL_RANGES: Final = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # "this network"
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier NAT; also used inside clouds
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local: cloud metadata
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; metadata on some clouds
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarking
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
"""Destinations that are not the public internet: no guest reaches them, but for what an operator opens to those that
ask.
"""


@dataclass(frozen=True, slots=True)
class Egress:
    """Where a sandbox may open connections to, of what its host lets guests reach at all: IPv4 networks.

    A destination in ``allow`` is reached, even when it is in ``deny``; one in ``deny`` alone is not; any other is.
    """

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """What the control plane asks an agent to make.

    Attributes:
        id: DNS-label-safe sandbox id, chosen by the control plane so that a retried create is the same create.
        snapshot_id: what to restore: a template's baked snapshot or a user's own.
        env: environment of every process started in the sandbox.
        access_token: secret the public envd port of this sandbox demands; never logged.
        egress: in force before the guest runs.
    """

    id: str
    snapshot_id: str
    env: dict[str, str] = field(default_factory=dict)
    access_token: str = field(default="", repr=False)
    egress: Egress = field(default_factory=Egress)


@dataclass(frozen=True, slots=True)
class SandboxReport:
    """What an agent says of a sandbox on its host.

    Attributes:
        envd_version: of E2B's envd, whose features the guest's agent has.
    """

    id: str
    state: State
    snapshot_id: str
    vcpus: int
    memory_mib: int
    guest_ip: str
    host_tap: str
    mac: str
    boot_mode: str
    phases: Phases
    failure: str | None = None
    console_tail: str = ""
    envd_version: str = ""


@dataclass(frozen=True, slots=True)
class MachineUsage:
    """What a sandbox's VMM takes of its host: the guest's processors and memory, and its own.

    Attributes:
        cpu_percent: of one processor of the host; may be more than 100.
    """

    pid: int
    uptime_seconds: float
    cpu_percent: float
    rss_bytes: int
    vsz_bytes: int
    threads: int


@dataclass(frozen=True, slots=True)
class SnapshotReport:
    """What an agent says of a snapshot that it has just taken.

    Attributes:
        parent_pause_ms: how long the sandbox stood still.
        capture_ms: until all of it was written, the pause included.
        dirty_bytes: memory that the guest had written and that was copied.
    """

    id: str
    vcpus: int
    memory_mib: int
    size_bytes: int
    parent_pause_ms: float
    capture_ms: float
    dirty_bytes: int


@dataclass(frozen=True, slots=True)
class ForkReport:
    """What came of a fork: the capture that all children started from, and a report or an error for each child."""

    captured: SnapshotReport
    children: tuple[SandboxReport | PlatformError, ...]


@dataclass(frozen=True, slots=True)
class TemplateReport:
    """A template that is baked on a host and can be restored there.

    Attributes:
        envd_version: of E2B's envd, whose features a sandbox made from it has.
    """

    name: str
    snapshot_id: str
    vcpus: int
    memory_mib: int
    disk_mib: int
    size_bytes: int
    rootfs_path: str
    label: str
    description: str
    category: str
    base: str
    tools: tuple[str, ...]
    aliases: tuple[str, ...]
    built_at: str
    envd_version: str


@dataclass(frozen=True, slots=True)
class HostCapacity:
    """What a host has and what is free of it, in MiB; the basis of admission.

    Attributes:
        memory_free_mib: what can be promised now, by the host's own book-keeping.
        overcommit: how many times the host's memory may be promised.
        vmm_cost_mib: what one VMM needs besides its guest's memory.
    """

    memory_total_mib: int
    memory_promised_mib: int
    memory_free_mib: int
    disk_free_mib: int
    slots_total: int
    slots_used: int
    overcommit: float = 1.0
    vmm_cost_mib: int = 0

    def cost_mib(self, memory_mib: int) -> float:
        """What a guest of ``memory_mib`` takes of ``memory_free_mib``."""
        return memory_mib / self.overcommit + self.vmm_cost_mib
