"""Hibernate, wake and rollback: the moves that replace a sandbox's machine.

Each prepares the next generation of the machine's files beside the present one and commits by writing the
record, so that at any instant, whatever is killed, the record names one complete machine:

    hibernate   capture into g+1 ─► record: hibernated, g+1 ─► end the VMM
    wake        start g+1 from g ─► record: running, g+1            (failed: still hibernated, g untouched)
    rollback    hibernate, keeping the slot ─► start g+1 from the snapshot ─► record: running
                                                                    (failed: wake again as it was)

The caller holds the sandbox's lock.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

import structlog

from pandastackd.agent.capturing import capture_into, prepare_capture
from pandastackd.agent.rooms import Rooms
from pandastackd.agent.sandbox import ENTROPY_BYTES, Sandbox, new_identity
from pandastackd.agent.start import Instant, Stopwatch, start_machine
from pandastackd.disk.atomic import remove_tree, sync_tree
from pandastackd.disk.space import storage_errors
from pandastackd.domain import Phases
from pandastackd.errors import Conflict, PlatformError
from pandastackd.guest import Identity
from pandastackd.lifecycle import Event, State, advance
from pandastackd.snapshot import Snapshot
from pandastackd.snapshot.capture import CaptureTiming, go_on

log = structlog.get_logger(__name__)


async def hibernate(
    rooms: Rooms, sandbox: Sandbox, *, durable: bool = True, keep_slot: bool = False
) -> CaptureTiming:
    """Write the machine's memory beside its disk and end the VMM; only what was written since the last time is copied.

    Raises:
        IllegalTransition: it is neither running nor paused.
        InsufficientStorage: the disk could not hold its memory; it goes on running.
        VmmFailed, HostFailure: the capture failed; it goes on running.
    """
    record = sandbox.record
    state = advance(record.state, Event.HIBERNATE, sandbox_id=sandbox.id)
    vmm = sandbox.machine()
    await prepare_capture(rooms, sandbox, f"hibernate sandbox {sandbox.id}")
    generation = record.generation + 1
    draft = sandbox.machine_directory(generation)
    await asyncio.to_thread(remove_tree, draft)
    captured = False
    try:
        with storage_errors("hibernate a sandbox"):
            draft.mkdir(mode=0o700)
            timing = await capture_into(rooms, sandbox, draft, keep_paused=True)
            captured = True
            if durable:
                await asyncio.to_thread(sync_tree, draft)
            sandbox.save(state=state, generation=generation, durable=durable)
    except BaseException:
        if captured and record.state is State.RUNNING:
            await asyncio.shield(go_on(vmm, sandbox.guest()))
        await asyncio.shield(asyncio.to_thread(remove_tree, draft))
        raise
    if keep_slot:
        await sandbox.end_machine()
    else:
        await sandbox.release_machine()
    await asyncio.to_thread(sandbox.remove_other_generations)
    return timing


async def wake(rooms: Rooms, sandbox: Sandbox) -> None:
    """Start a hibernated sandbox where it stopped.

    Raises:
        IllegalTransition: it is not hibernated.
        NoCapacity, InsufficientStorage, VmmFailed: it could not be started; it is still hibernated.
    """
    advance(sandbox.record.state, Event.WAKE, sandbox_id=sandbox.id)
    identity = Identity(entropy=os.urandom(ENTROPY_BYTES), reset_connections=True)
    await _start_as_next(rooms, sandbox, Instant.inside(sandbox.machine_directory()), identity, Event.WAKE)


async def rollback(rooms: Rooms, sandbox: Sandbox, snapshot: Snapshot) -> None:
    """Put an earlier instant in place of the present machine: same id, same slot. The present one is given up only once
    the earlier one has answered.

    Raises:
        Conflict: the snapshot is of a machine of another size.
        NoCapacity, InsufficientStorage, VmmFailed: the earlier instant did not start; the sandbox goes on as it was.
    """
    manifest, before = snapshot.manifest, sandbox.record.state
    advance(before, Event.ROLLBACK, sandbox_id=sandbox.id)
    if (manifest.vcpus, manifest.memory_mib) != (sandbox.record.vcpus, sandbox.record.memory_mib):
        raise Conflict(
            f"snapshot {snapshot.id} is of a machine with {manifest.vcpus} vCPU and {manifest.memory_mib} MiB, sandbox "
            f"{sandbox.id} has {sandbox.record.vcpus} and {sandbox.record.memory_mib}; create a new sandbox from it",
            code="size_differs",
        )
    if before in (State.RUNNING, State.PAUSED):
        await hibernate(rooms, sandbox, durable=False, keep_slot=True)
    identity = new_identity(sandbox.id, {}, None, reset_connections=True)
    try:
        await _start_as_next(
            rooms, sandbox, Instant.of(snapshot), identity, Event.ROLLBACK, snapshot=snapshot
        )
    except BaseException:
        if before in (State.RUNNING, State.PAUSED):
            await asyncio.shield(_as_it_was(rooms, sandbox, before))
        raise


async def _as_it_was(rooms: Rooms, sandbox: Sandbox, before: State) -> None:
    """After a rollback that failed. What cannot be woken now stays hibernated, and is woken by its next use."""
    with suppress(PlatformError):
        await wake(rooms, sandbox)
        if before is State.PAUSED:
            await sandbox.machine().pause()
            sandbox.save(state=before)
    log.warning("rollback.failed", sandbox=sandbox.id, state=str(sandbox.record.state))


async def _start_as_next(
    rooms: Rooms,
    sandbox: Sandbox,
    instant: Instant,
    identity: Identity,
    event: Event,
    *,
    snapshot: Snapshot | None = None,
) -> None:
    watch = Stopwatch()
    state = advance(sandbox.record.state, event, sandbox_id=sandbox.id)
    if sandbox.slot is None:
        sandbox.slot = await rooms.slots.acquire()
    slot_ms = watch.lap()
    generation = sandbox.record.generation + 1
    try:
        sandbox.save(slot=sandbox.slot.number)
        await asyncio.to_thread(remove_tree, sandbox.machine_directory(generation))
        timing = await start_machine(rooms, sandbox, instant, identity, generation=generation)
        phases = Phases(slot_ms, timing.disk, timing.vmm, timing.load, timing.guest, watch.total())
        sandbox.save(
            state=state,
            generation=generation,
            phases=phases,
            snapshot_id=sandbox.record.snapshot_id if snapshot is None else snapshot.id,
            failure=None,
            console_tail="",
        )
    except BaseException:
        await asyncio.shield(sandbox.release_machine())
        raise
    sandbox.watch()
    await asyncio.to_thread(sandbox.remove_other_generations)
