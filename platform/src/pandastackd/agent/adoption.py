"""After a restart of the agent: keep what still runs, record what died, remove what was half-made.

The records tell what an earlier agent owned. A machine that is alive is taken over as it is; one that died meanwhile is
``failed``, with its last console lines; a create or delete that was cut off is finished as a delete.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog

from pandastackd.agent.record import Record
from pandastackd.agent.rooms import Rooms, enclosure_of
from pandastackd.agent.sandbox import Sandbox
from pandastackd.disk.atomic import remove_tree
from pandastackd.disk.layout import DataDir
from pandastackd.domain import Egress
from pandastackd.errors import PlatformError
from pandastackd.lifecycle import State

log = structlog.get_logger(__name__)

LET_GO_SECONDS = 2.0
SETTLED = frozenset({State.FAILED, State.HIBERNATED})


def slots_in_use(data: DataDir) -> dict[int, Egress]:
    """Slot numbers that records name, and what their guests may reach; every other slot is a leftover."""
    records = (Record.load(path) for path in sorted(data.sandboxes.iterdir()))
    return {
        record.slot: record.egress for record in records if record is not None and record.slot is not None
    }


async def adopt_or_bury(rooms: Rooms, on_change: Callable[[str], None]) -> list[Sandbox]:
    """Go through every sandbox directory of an earlier agent; return those that are still sandboxes."""
    kept: list[Sandbox] = []
    for directory in sorted(rooms.data.sandboxes.iterdir()):
        record = Record.load(directory)
        if record is None or record.id != directory.name:
            log.warning("adoption.removed", directory=directory.name, reason="no readable record")
            await asyncio.to_thread(remove_tree, directory)
            continue
        sandbox = Sandbox(rooms, record, on_change)
        if record.state in (State.CREATING, State.STOPPING, State.DELETED):
            await sandbox.destroy()
            log.info("adoption.buried", sandbox=record.id, was=str(record.state))
            continue
        if record.state in SETTLED:
            # A wake or rollback that was cut off may have left a half-started machine.
            await sandbox.release_machine()
        else:
            await _adopt(rooms, sandbox)
        await asyncio.to_thread(sandbox.remove_other_generations)
        kept.append(sandbox)
    await asyncio.gather(*(_let_go(each) for each in kept if each.record.state is State.RUNNING))
    return kept


async def _let_go(sandbox: Sandbox) -> None:
    """A capture that was cut off leaves processes held for ten seconds; no need to wait for that."""
    with suppress(PlatformError, TimeoutError):
        async with asyncio.timeout(LET_GO_SECONDS):
            await sandbox.guest().release()


async def _adopt(rooms: Rooms, sandbox: Sandbox) -> None:
    slot = sandbox.slot
    vmm = (
        await rooms.driver.adopt(enclosure_of(sandbox.directory, slot, sandbox.record.generation))
        if slot is not None
        else None
    )
    if vmm is None:
        await sandbox.fail("the VMM ended while no agent was watching (host rebooted, or it was killed)")
        log.warning("adoption.failed", sandbox=sandbox.id)
        return
    sandbox.vmm = vmm
    if sandbox.record.state is State.RUNNING:
        # A pause that was cut off before it was written down leaves a frozen machine that is recorded as running.
        await vmm.resume()
        sandbox.connect_guest()
    sandbox.watch()
    log.info("adoption.adopted", sandbox=sandbox.id, state=str(sandbox.record.state))
