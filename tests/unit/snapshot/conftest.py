"""Snapshots made of small files, and a VMM that only remembers what was asked of it. No root, no VM."""

from __future__ import annotations

from pathlib import Path

import pytest

from pandastackd.errors import GuestUnreachable
from pandastackd.snapshot import Kind, Manifest, Snapshot, SnapshotStore, describe
from pandastackd.vmm.driver import MemoryMapping, VmmExit, VmmIdentity, VmmTiming

IDENTITY = VmmIdentity("qemu", "7.2.22", "tcg", "Nehalem", "microvm")
MIB = 1024 * 1024


class FakeVmm:
    """Remembers calls; fails where it is told to."""

    def __init__(self, memory: Path) -> None:
        self.calls: list[str] = []
        self.fail_at = ""
        self.running = True
        self._memory = memory

    pid = 4711
    timing = VmmTiming()

    async def resume(self) -> None:
        self.note("resume")
        self.running = True

    async def pause(self) -> None:
        self.note("pause")
        self.running = False

    async def save_device_state(self, path: Path) -> None:
        self.note("state")
        assert not self.running
        path.write_bytes(b"device state")

    async def stop(self) -> None:
        self.note("stop")

    async def wait(self) -> VmmExit:
        return VmmExit(code=0)

    def console_tail(self, lines: int = 40) -> str:
        return f"{lines} lines"

    def memory_mapping(self) -> MemoryMapping:
        return MemoryMapping(self.pid, 0x7F0000000000, self._memory.stat().st_size)

    def note(self, call: str) -> None:
        self.calls.append(call)
        if call == self.fail_at:
            raise RuntimeError(call)


class FakeWorkload:
    """Notes among the calls of its machine when it is held and let go."""

    def __init__(self, vmm: FakeVmm, *, deaf: bool = False) -> None:
        self._vmm = vmm
        self._deaf = deaf

    async def hold(self) -> None:
        self._vmm.note("hold")

    async def release(self) -> None:
        self._vmm.note("release")
        if self._deaf:
            raise GuestUnreachable("no answer")


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    for name in ("snapshots", "staging"):
        (tmp_path / name).mkdir()
    return SnapshotStore(tmp_path / "snapshots", tmp_path / "staging")


def fill(directory: Path, memory_mib: int = 1) -> None:
    """Files such as a capture leaves."""
    (directory / "memory").write_bytes(b"\1" * memory_mib * MIB)
    (directory / "state").write_bytes(b"device state")
    (directory / "disk").write_bytes(b"\2" * 3 * MIB)


def manifest_of(directory: Path, snapshot_id: str) -> Manifest:
    """The manifest of what :func:`fill` made."""
    return describe(
        directory,
        snapshot_id=snapshot_id,
        kind=Kind.SNAPSHOT,
        vmm=IDENTITY,
        vcpus=1,
        memory_mib=1,
        kernel="abc",
        template="base",
        guest_agent="0.1.0",
    )


async def publish(store: SnapshotStore, snapshot_id: str) -> Snapshot:
    """A published snapshot."""
    async with store.draft(snapshot_id) as draft:
        fill(draft)
        return await store.publish(draft, manifest_of(draft, snapshot_id))
