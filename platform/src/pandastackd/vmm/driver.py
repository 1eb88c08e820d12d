"""What a VMM driver is: the one interface behind which QEMU, and later others, stand.

A driver turns an :class:`Enclosure` (the files and devices of one sandbox) into a running :class:`Vmm`. It
knows nothing of templates, tenants or networks. What it starts outlives this process, and is found again with
:meth:`Driver.adopt`. Times are milliseconds, memory is MiB unless the name says otherwise.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Machine:
    """The size of a virtual machine; part of every snapshot, and the same at boot and restore."""

    vcpus: int
    memory_mib: int


@dataclass(frozen=True, slots=True)
class Enclosure:
    """What one VMM process may see and use.

    Attributes:
        home: the driver's own folder for this VMM: QMP socket, console, how it ended. The driver makes and
            removes it.
        uid: user and group the process runs as; no other process on the host has it.
        netns: network namespace to run in.
        taps: tap devices in that namespace: data, then control.
        disk: raw disk image, read and written.
        memory: file of exactly the machine's memory.
        memory_shared: the file *is* the guest's memory. Only while a template is baked; otherwise the guest
            sees the file's content and keeps what it writes to itself, and the process cannot write to the
            file at all.
        cgroup: name below our cgroup root.
        overhead_mib: host memory allowed to the VMM on top of the guest's.
    """

    home: Path
    uid: int
    netns: Path
    taps: tuple[str, ...]
    disk: Path
    memory: Path
    memory_shared: bool
    cgroup: str
    overhead_mib: int = 512


@dataclass(frozen=True, slots=True)
class VmmIdentity:
    """What decides whether a device state saved by one VMM can be loaded by another."""

    name: str
    version: str
    accelerator: str
    cpu_model: str
    machine: str


@dataclass(frozen=True, slots=True)
class VmmTiming:
    """How long the VMM took, in milliseconds.

    ``start_ms``: until its process answered. ``load_ms``: until the device state was loaded; 0 for a boot.
    """

    start_ms: float = 0.0
    load_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class VmmExit:
    """How a VMM process ended. All ``None`` when nobody was left to see it (its supervisor was killed
    too)."""

    code: int | None = None
    signal: int | None = None
    ended_at: float | None = None
    """Seconds since the epoch."""

    def __str__(self) -> str:
        if self.signal is not None:
            try:
                name = signal.Signals(self.signal).name
            except ValueError:
                name = f"signal {self.signal}"
            return f"killed by {name}"
        if self.code is not None:
            return f"exit code {self.code}"
        return "killed together with its supervisor"


@dataclass(frozen=True, slots=True)
class MemoryMapping:
    """Where guest RAM lies in the VMM's address space; what a capture of written pages reads."""

    pid: int
    start: int
    length: int
    """Bytes."""


class Vmm(Protocol):
    """One VMM process. Every method raises VmmFailed, with the console's end, when the process is gone or
    refuses."""

    @property
    def pid(self) -> int:
        """Process id on the host."""

    @property
    def timing(self) -> VmmTiming:
        """How long its start took; zeros for an adopted one."""

    async def resume(self) -> None:
        """Let the guest run. No effect on one that runs."""

    async def pause(self) -> None:
        """Freeze the guest at once. No effect on one that is frozen."""

    async def save_device_state(self, path: Path) -> None:
        """Write everything but RAM and disk to ``path``, which must not exist. Allowed only while paused."""

    async def stop(self) -> None:
        """Kill the process and wait until it is gone. Idempotent. Its home and cgroup stay until
        ``clean``."""

    async def wait(self) -> VmmExit:
        """Wait until the process has ended, by itself or not. Any number of callers, adopted processes
        too."""

    def console_tail(self, lines: int = 40) -> str:
        """The end of the guest's serial console, safe to print."""

    def memory_mapping(self) -> MemoryMapping:
        """Where guest RAM is mapped now."""


class Driver(Protocol):
    """Starts, finds again and removes VMMs of one kind."""

    def identity(self) -> VmmIdentity:
        """What snapshots made by this driver are compatible with."""

    async def boot(
        self, machine: Machine, enclosure: Enclosure, *, kernel: Path, initrd: Path, cmdline: str
    ) -> Vmm:
        """Start a machine from its kernel; returns as soon as it runs. On failure nothing is left behind.

        ``cmdline`` is what the caller wants the kernel told; the driver adds what the machine itself needs.

        Raises:
            VmmFailed: the VMM did not start; says why.
        """

    async def restore(self, machine: Machine, enclosure: Enclosure, *, state: Path) -> Vmm:
        """Load a saved machine and leave it paused. On failure nothing is left behind.

        Raises:
            VmmFailed: the VMM did not start or refused the state; says why.
        """

    async def adopt(self, enclosure: Enclosure) -> Vmm | None:
        """Find the VMM that an earlier agent started in ``enclosure``; ``None`` when it is dead.

        Raises:
            VmmFailed: it lives but does not answer.
        """

    async def clean(self, enclosure: Enclosure) -> None:
        """Kill what is left of a VMM and remove its cgroup and home. Idempotent.

        Raises:
            HostFailure: something would not die or would not go; says what.
        """
