"""A machine that is booted rather than restored: where templates are made.

It is a sandbox like any other to the host (record, slot, cgroup, jail), so a build that is killed half-way is
buried by the next start as a half-made sandbox is.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pandastackd.agent.record import Origin, Record
from pandastackd.agent.rooms import Rooms, enclosure_of
from pandastackd.agent.sandbox import Sandbox, new_identity
from pandastackd.disk.reflink import import_file
from pandastackd.disk.space import storage_errors
from pandastackd.errors import GuestUnreachable, VmmFailed
from pandastackd.guest import GuestClient
from pandastackd.lifecycle import State
from pandastackd.network.addresses import guest_network_arguments
from pandastackd.vmm import Machine, Vmm

BOOT_DEADLINE_SECONDS = 120.0
SHUTDOWN_DEADLINE_SECONDS = 60.0
REHEARSALS = 3
SETTLE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Workbench:
    """A booted machine and the client of its guest agent.

    Attributes:
        boot_ms: from the start of the VMM to the guest agent's first answer.
    """

    guest: GuestClient
    boot_ms: float
    _vmm: Vmm
    _files: Path

    async def shut_down_into(self, disk: Path) -> None:
        """Shut the guest down in order and move its disk, cleanly unmounted, to ``disk``.

        Raises:
            VmmFailed: the guest did not end in time.
        """
        await self.guest.shutdown()
        try:
            async with asyncio.timeout(SHUTDOWN_DEADLINE_SECONDS):
                await self._vmm.wait()
        except TimeoutError:
            raise VmmFailed(
                f"the guest did not shut down within {SHUTDOWN_DEADLINE_SECONDS:.0f} s; its disk is not used",
                console_tail=self._vmm.console_tail(),
            ) from None
        await asyncio.to_thread(_take, self._files / "disk", disk)

    async def freeze_into(self, directory: Path) -> None:
        """Stop the guest at one instant and leave its ``memory``, ``state`` and ``disk`` in ``directory``."""
        # Rehearsed, so that what every restore does first has its pages and look-ups in the snapshot.
        for _ in range(REHEARSALS):
            identity = new_identity("template", {}, None, reset_connections=False)
            await self.guest.introduce(identity, deadline_seconds=BOOT_DEADLINE_SECONDS)
        await self.guest.sync()
        await self.guest.hold()
        await self.guest.aclose()
        # What is still under way in the kernel would be carried on at the beginning of every restore.
        await asyncio.sleep(SETTLE_SECONDS)
        await self._vmm.pause()
        await self._vmm.save_device_state(directory / "state")
        await self._vmm.stop()
        for name in ("memory", "disk"):
            await asyncio.to_thread(_take, self._files / name, directory / name)


@asynccontextmanager
async def workbench(
    rooms: Rooms, *, disk: Path, vcpus: int, memory_mib: int, kernel: Path, initrd: Path
) -> AsyncIterator[Workbench]:
    """Boot a copy of ``disk``; the machine and every trace of it are gone when the block ends.

    Raises:
        VmmFailed, GuestUnreachable: the boot failed; the message ends with the console's last lines.
    """
    slot = await rooms.slots.acquire()
    record = Record(
        id=f"build-{secrets.token_hex(6)}",
        snapshot_id="",
        vcpus=vcpus,
        memory_mib=memory_mib,
        state=State.CREATING,
        slot=slot.number,
        origin=Origin(kernel="", template="", guest_agent=""),
        boot_mode="boot",
    )
    sandbox = Sandbox(rooms, record, lambda _: None)
    try:
        await asyncio.to_thread(_lay_out, sandbox, disk, slot.uid)
        begun = time.perf_counter()
        vmm = sandbox.vmm = await rooms.driver.boot(
            Machine(vcpus, memory_mib),
            enclosure_of(sandbox.directory, slot, record.generation, memory_shared=True),
            kernel=kernel,
            initrd=initrd,
            cmdline=guest_network_arguments(),
        )
        guest = sandbox.connect_guest()
        await _first_answer(guest, vmm)
        yield Workbench(guest, (time.perf_counter() - begun) * 1e3, vmm, sandbox.machine_directory())
    finally:
        await asyncio.shield(sandbox.destroy())


async def _first_answer(guest: GuestClient, vmm: Vmm) -> None:
    try:
        await guest.ping(deadline_seconds=BOOT_DEADLINE_SECONDS)
    except GuestUnreachable as unreachable:
        tail = vmm.console_tail()
        raise VmmFailed(
            f"the guest did not boot: {unreachable.message}; its console ended with:\n{tail}",
            console_tail=tail,
        ) from unreachable


def _lay_out(sandbox: Sandbox, disk: Path, uid: int) -> None:
    with storage_errors("lay out a machine for a template"):
        sandbox.directory.mkdir(mode=0o700)
        sandbox.save()
        files = sandbox.machine_directory()
        files.mkdir(mode=0o700)
        import_file(disk, files / "disk")
        with (files / "memory").open("xb") as memory:
            memory.truncate(sandbox.record.memory_mib << 20)
        for name in ("disk", "memory"):
            os.chown(files / name, uid, uid)
            (files / name).chmod(0o600)


def _take(source: Path, target: Path) -> None:
    os.chown(source, 0, 0)
    source.chmod(0o444)
    source.rename(target)
    with target.open("rb") as file:
        os.fsync(file.fileno())
