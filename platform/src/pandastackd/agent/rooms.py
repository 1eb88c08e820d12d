"""The collaborators of the agent, and how a sandbox's directory maps onto them.

    sandboxes/<id>/record.json             what it is; names the generation that counts
    sandboxes/<id>/machine-<generation>/   disk, memory and, while it is hibernated, state
    sandboxes/<id>/vmm/                    the VMM's home

The files are complete in themselves: the disk is a reflink clone, ``memory`` a hard link to the memory file
that the machine was restored from. So a snapshot may be deleted while sandboxes run on it, and a fork never
needs to know where its parent came from. A move that replaces the machine (hibernate, wake, rollback) prepares
the next generation beside the present one and commits by writing its number into the record; every other
generation is a leftover.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pandastackd.config import Settings
from pandastackd.disk.layout import DataDir
from pandastackd.guest import AgentProgram
from pandastackd.network import Slot, SlotPool
from pandastackd.snapshot import MemoryTool, SnapshotStore
from pandastackd.vmm import Driver, Enclosure

OVERHEAD_MIB = 512
"""Host memory a VMM may take besides its guest's: half of it the emulator's translation cache, which KVM does not
have.
"""
BAKING_OVERHEAD_MIB = 2048


@dataclass(frozen=True, slots=True)
class Rooms:
    """Everything the agent works with; made once, in :meth:`pandastackd.agent.agent.Agent.open`."""

    settings: Settings
    data: DataDir
    driver: Driver
    slots: SlotPool
    snapshots: SnapshotStore
    memory: MemoryTool
    guest_agent: AgentProgram


def cgroup_name(sandbox_id: str) -> str:
    """Name of a sandbox's cgroup below ours."""
    return f"sandbox-{sandbox_id}"


def machine_directory(directory: Path, generation: int) -> Path:
    """Where the files of one generation of the machine of the sandbox in ``directory`` are."""
    return directory / f"machine-{generation}"


def enclosure_of(directory: Path, slot: Slot, generation: int, *, memory_shared: bool = False) -> Enclosure:
    """What the VMM of the sandbox in ``directory`` may see and use."""
    files = machine_directory(directory, generation)
    return Enclosure(
        home=directory / "vmm",
        uid=slot.uid,
        netns=slot.netns,
        taps=(slot.data_tap, slot.control_tap),
        disk=files / "disk",
        memory=files / "memory",
        memory_shared=memory_shared,
        cgroup=cgroup_name(directory.name),
        # While its memory is a shared file, every page of it that is not yet on disk counts against the limit too.
        overhead_mib=BAKING_OVERHEAD_MIB if memory_shared else OVERHEAD_MIB,
    )
