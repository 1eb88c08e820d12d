"""Starting a machine from memory, device state and disk of one instant: the step that create, fork, wake and
rollback share.

    restrict the slot ─► lay out ─► VMM process ─► state load ─► resume ─► introduce
                                    (memory read ahead beside it)

The machine gets files of its own (a *generation*: a reflink clone of the disk, a hard link to the memory), so what it
started from stays as it was until the caller decides that the start has succeeded.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pandastackd.agent.guest_program import bring_up_to_date
from pandastackd.agent.rooms import Rooms, enclosure_of
from pandastackd.agent.sandbox import GUEST_DEADLINE_SECONDS, Sandbox
from pandastackd.disk.atomic import remove_tree
from pandastackd.disk.reflink import clone
from pandastackd.disk.space import storage_errors
from pandastackd.domain import Egress
from pandastackd.errors import GuestUnreachable, HostFailure, NotFound, VmmFailed
from pandastackd.guest import AgentBuild, Identity
from pandastackd.network import Slot
from pandastackd.snapshot import Snapshot
from pandastackd.snapshot.used_pages import read_ahead
from pandastackd.vmm import Machine, Vmm


@dataclass(frozen=True, slots=True)
class Instant:
    """The files of one instant of a machine."""

    disk: Path
    memory: Path
    state: Path

    @classmethod
    def of(cls, snapshot: Snapshot) -> Instant:
        """The instant that a snapshot holds."""
        return cls(snapshot.disk, snapshot.memory, snapshot.state)

    @classmethod
    def inside(cls, directory: Path) -> Instant:
        """The instant in a directory that a capture was made into."""
        return cls(directory / "disk", directory / "memory", directory / "state")


@dataclass(frozen=True, slots=True)
class StartTiming:
    """How long each step took, in milliseconds."""

    disk: float
    vmm: float
    load: float
    guest: float


class Stopwatch:
    """Milliseconds since the last lap, and since the start."""

    def __init__(self) -> None:
        self._start = self._lap = time.perf_counter()

    def lap(self) -> float:
        """Milliseconds since the last call of this method."""
        now = time.perf_counter()
        lap, self._lap = (now - self._lap) * 1e3, now
        return lap

    def total(self) -> float:
        """Milliseconds since the stopwatch was made."""
        return (time.perf_counter() - self._start) * 1e3


async def start_machine(
    rooms: Rooms, sandbox: Sandbox, instant: Instant, identity: Identity, *, generation: int
) -> StartTiming:
    """Start the sandbox's machine from ``instant`` as ``generation``, and introduce its guest.

    The sandbox holds a slot and no machine; afterwards it holds the machine, and writing the generation into
    its record is the caller's commit. When it raises, or is cancelled, the machine and the generation's files
    are gone again.

    Raises:
        NotFound: the files of the instant are gone.
        InsufficientStorage: the disk is full.
        VmmFailed: the VMM did not start, refused the state, or its guest did not answer; carries the console.
    """
    slot = sandbox.held_slot()
    enclosure = enclosure_of(sandbox.directory, slot, generation)
    watch = Stopwatch()
    try:
        if sandbox.record.egress != Egress():
            await rooms.slots.restrict(slot, sandbox.record.egress)
        await asyncio.to_thread(_lay_out, sandbox.machine_directory(generation), instant, slot)
        disk_ms = watch.lap()
        machine = Machine(sandbox.record.vcpus, sandbox.record.memory_mib)
        async with _reading_ahead(instant):
            vmm = sandbox.vmm = await rooms.driver.restore(machine, enclosure, state=instant.state)
            watch.lap()
            await vmm.resume()
            try:
                build = await _introduce(rooms, sandbox, vmm, identity)
            except (GuestUnreachable, HostFailure) as silent:
                raise VmmFailed(silent.message, console_tail=vmm.console_tail(), code=silent.code) from silent
        # Every caller writes the record next: once is enough.
        sandbox.record = sandbox.record.with_(envd_version=build.envd_version)
        return StartTiming(disk_ms, vmm.timing.start_ms, vmm.timing.load_ms, watch.lap())
    except BaseException:
        # Shielded: a caller that gives up in the middle must not leave half a machine behind.
        await asyncio.shield(_undo(rooms, sandbox, slot, generation))
        raise


@asynccontextmanager
async def _reading_ahead(instant: Instant) -> AsyncIterator[None]:
    ahead = asyncio.create_task(asyncio.to_thread(read_ahead, instant.memory))
    try:
        yield
    finally:
        await asyncio.wait({ahead})


async def _introduce(rooms: Rooms, sandbox: Sandbox, vmm: Vmm, identity: Identity) -> AgentBuild:
    """Introduce the guest, and do not wait for the answer of one whose VMM has died."""
    guest = sandbox.connect_guest()

    async def meet() -> AgentBuild:
        build = await guest.introduce(identity, deadline_seconds=GUEST_DEADLINE_SECONDS)
        return await bring_up_to_date(guest, build, rooms.guest_agent, sandbox_id=sandbox.id)

    answer = asyncio.create_task(meet())
    end = asyncio.create_task(vmm.wait())
    try:
        await asyncio.wait({answer, end}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise VmmFailed(
                f"the VMM ended before its guest had answered ({end.result()})",
                console_tail=vmm.console_tail(),
            )
        return await answer
    finally:
        answer.cancel()
        end.cancel()
        await asyncio.gather(answer, end, return_exceptions=True)


async def _undo(rooms: Rooms, sandbox: Sandbox, slot: Slot, generation: int) -> None:
    await sandbox.drop_guest()
    sandbox.vmm = None
    await rooms.driver.clean(enclosure_of(sandbox.directory, slot, generation))
    await asyncio.to_thread(remove_tree, sandbox.machine_directory(generation))


def _lay_out(directory: Path, instant: Instant, slot: Slot) -> None:
    try:
        with storage_errors("start a sandbox"):
            directory.mkdir(mode=0o700)
            disk = directory / "disk"
            clone(instant.disk, disk)
            os.chown(disk, slot.uid, slot.uid)
            os.link(instant.memory, directory / "memory")
    except FileNotFoundError as missing:
        raise NotFound(
            "the snapshot was deleted while a sandbox was being started from it", code="snapshot_not_found"
        ) from missing
