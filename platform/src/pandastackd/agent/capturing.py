"""One instant of a sandbox as a snapshot: for keeping, or for the children of a fork to start from.

The guest flushes its file systems before, so that the disk is whole by itself too, and holds its processes still; the
pause holds device state, written pages and the disk clone. The parent goes on whatever happens (``snapshot.capture``
sees to it).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pandastackd.agent.rooms import Rooms
from pandastackd.agent.sandbox import Sandbox
from pandastackd.agent.shelf import snapshot_report
from pandastackd.disk.space import require_free
from pandastackd.domain import SnapshotReport
from pandastackd.errors import Conflict
from pandastackd.lifecycle import State
from pandastackd.snapshot import Kind, Snapshot, describe
from pandastackd.snapshot.capture import CaptureTiming, capture

MARGIN_MIB = 64
"""Besides the guest's memory, which is the most that a capture can write."""


@dataclass(frozen=True, slots=True)
class Captured:
    """A published snapshot, and what is told of it."""

    snapshot: Snapshot
    report: SnapshotReport


async def capture_sandbox(
    rooms: Rooms, sandbox: Sandbox, snapshot_id: str, *, kind: Kind, durable: bool = True
) -> Captured:
    """Capture a running or paused sandbox as the snapshot ``snapshot_id``. The caller holds the sandbox's lock.

    Args:
        durable: flush it to disk before answering; not needed for what only the children of a fork start from.

    Raises:
        Conflict: the sandbox is neither running nor paused.
        InsufficientStorage: the disk could not hold all of its memory.
        VmmFailed, HostFailure: the capture failed; the sandbox goes on and nothing is left behind.
    """
    state = sandbox.record.state
    if state not in (State.RUNNING, State.PAUSED) or sandbox.vmm is None:
        raise Conflict(
            f"sandbox {sandbox.id} is {state}; a snapshot needs it running or paused", code="not_running"
        )
    await prepare_capture(rooms, sandbox, f"snapshot sandbox {sandbox.id}")
    origin = sandbox.record.origin
    async with rooms.snapshots.draft(snapshot_id) as draft:
        timing = await capture_into(rooms, sandbox, draft, keep_paused=state is State.PAUSED)
        manifest = describe(
            draft,
            snapshot_id=snapshot_id,
            kind=kind,
            vmm=rooms.driver.identity(),
            vcpus=sandbox.record.vcpus,
            memory_mib=sandbox.record.memory_mib,
            kernel=origin.kernel,
            template=origin.template,
            guest_agent=origin.guest_agent,
            env=origin.env,
            parent=sandbox.record.snapshot_id,
        )
        snapshot = await rooms.snapshots.publish(draft, manifest, durable=durable)
        return Captured(snapshot, snapshot_report(snapshot, timing))


async def prepare_capture(rooms: Rooms, sandbox: Sandbox, what: str) -> None:
    """Room for the most that a capture can write, and the guest's file systems flushed if it runs.

    Raises:
        InsufficientStorage: the disk could not hold all of its memory; says that it is too little to do ``what``.
    """
    require_free(
        rooms.data,
        sandbox.record.memory_mib + MARGIN_MIB,
        reserve_mib=rooms.settings.disk_reserve_mib,
        what=what,
    )
    if sandbox.record.state is State.RUNNING:
        await sandbox.guest().sync()


async def capture_into(rooms: Rooms, sandbox: Sandbox, draft: Path, *, keep_paused: bool) -> CaptureTiming:
    """Capture the machine files that count into ``draft``; errors are those of ``snapshot.capture``."""
    files = sandbox.machine_directory()
    return await capture(
        sandbox.machine(),
        disk=files / "disk",
        base_memory=files / "memory",
        draft=draft,
        tool=rooms.memory,
        workload=sandbox.guest() if sandbox.record.state is State.RUNNING else None,
        keep_paused=keep_paused,
    )
