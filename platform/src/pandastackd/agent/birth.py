"""From a snapshot to a sandbox that answers: the create path, measured step by step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pandastackd.agent.record import Origin, Record
from pandastackd.agent.rooms import Rooms
from pandastackd.agent.sandbox import Sandbox, new_identity
from pandastackd.agent.start import Instant, Stopwatch, start_machine
from pandastackd.disk.space import storage_errors
from pandastackd.domain import Phases, SandboxSpec
from pandastackd.lifecycle import Event, State, advance
from pandastackd.snapshot import Kind, Snapshot


async def give_birth(
    rooms: Rooms, spec: SandboxSpec, snapshot: Snapshot, on_change: Callable[[str], None]
) -> Sandbox:
    """Restore ``snapshot`` as the sandbox ``spec`` and answer when its guest has answered.

    The first failure, or a caller that gives up, ends the sandbox by the same road that a delete takes, so
    there is one list of what has to be released, not two.

    Raises:
        NoCapacity: no network slot is free.
        InsufficientStorage: the disk is short.
        VmmFailed: the VMM or its guest did not start; carries its console. In every case nothing is left behind.
    """
    watch = Stopwatch()
    manifest = snapshot.manifest
    slot = await rooms.slots.acquire()
    slot_ms = watch.lap()
    record = Record(
        id=spec.id,
        snapshot_id=spec.snapshot_id,
        vcpus=manifest.vcpus,
        memory_mib=manifest.memory_mib,
        state=State.CREATING,
        slot=slot.number,
        origin=Origin.of(manifest),
        egress=spec.egress,
        boot_mode="fork" if manifest.kind is Kind.FORK else "restore",
    )
    sandbox = Sandbox(rooms, record, on_change)
    try:
        with storage_errors("create a sandbox"):
            sandbox.directory.mkdir(mode=0o700)
            sandbox.save()
        identity = new_identity(
            sandbox.id,
            {**manifest.env, **spec.env},
            spec.access_token,
            # Nothing a template has open is of use to anybody, and none reaches outside; a fork's parent's do.
            reset_connections=manifest.kind is not Kind.TEMPLATE,
        )
        timing = await start_machine(rooms, sandbox, Instant.of(snapshot), identity, generation=0)
        phases = Phases(slot_ms, timing.disk, timing.vmm, timing.load, timing.guest, watch.total())
        sandbox.save(state=advance(State.CREATING, Event.STARTED), phases=phases)
    except BaseException:
        await asyncio.shield(sandbox.destroy())
        raise
    sandbox.watch()
    return sandbox
