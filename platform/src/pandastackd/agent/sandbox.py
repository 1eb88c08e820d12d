"""One sandbox on this host: its record, what it holds, and the moves of its life.

Every move holds the sandbox's lock, asks the life cycle's table first, and writes the record before it answers.
Whatever a move acquires it gives back when it fails; the machine is never left frozen by a move that did not
succeed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path

import structlog

from pandastackd.agent.record import Record
from pandastackd.agent.rooms import Rooms, enclosure_of, machine_directory
from pandastackd.disk.atomic import remove_tree
from pandastackd.domain import Egress, SandboxReport
from pandastackd.errors import Conflict, GuestUnreachable
from pandastackd.guest import GuestClient, Identity
from pandastackd.lifecycle import Event, State, advance
from pandastackd.network import Slot
from pandastackd.network.addresses import DATA_GUEST, DATA_GUEST_MAC
from pandastackd.snapshot.capture import go_on
from pandastackd.vmm import Vmm

log = structlog.get_logger(__name__)

GUEST_DEADLINE_SECONDS = 30.0
ENTROPY_BYTES = 64


def new_identity(
    sandbox_id: str, env: dict[str, str], access_token: str | None, *, reset_connections: bool
) -> Identity:
    """What makes a restored guest unlike every other: the first thing it hears, and its proof of life."""
    return Identity(
        hostname=sandbox_id,
        machine_id=uuid.uuid4().hex,
        entropy=os.urandom(ENTROPY_BYTES),
        env=env,
        access_token=access_token,
        reset_connections=reset_connections,
    )


class Sandbox:
    """A sandbox and what it holds on this host.

    Args:
        rooms: the agent's collaborators.
        record: what is written down about it.
        on_change: called with the id when its state changes by itself (its VMM died).
    """

    def __init__(self, rooms: Rooms, record: Record, on_change: Callable[[str], None]) -> None:
        self._rooms = rooms
        self._on_change = on_change
        self._watcher: asyncio.Task[None] | None = None
        self._guest: GuestClient | None = None
        self.lock = asyncio.Lock()
        self.record = record
        self.slot: Slot | None = None if record.slot is None else rooms.slots.slot(record.slot)
        self.vmm: Vmm | None = None

    @property
    def id(self) -> str:
        """The sandbox's id, also the name of its directory."""
        return self.record.id

    @property
    def directory(self) -> Path:
        """Where its disk, memory and record are."""
        return self._rooms.data.sandbox(self.record.id)

    def machine_directory(self, generation: int | None = None) -> Path:
        """Where the files of a generation of its machine are; by default those that count."""
        return machine_directory(self.directory, self.record.generation if generation is None else generation)

    def save(self, *, durable: bool = False, **changes: object) -> None:
        """Change the record and write it down."""
        self.record = self.record.with_(**changes).save(self.directory, durable=durable)

    def remove_other_generations(self) -> None:
        """Remove the machine files that do not count (any more). Blocking."""
        for path in self.directory.glob("machine-*"):
            if path != self.machine_directory():
                remove_tree(path)

    def held_slot(self) -> Slot:
        """The network slot it holds.

        Raises:
            Conflict: it holds none.
        """
        if self.slot is None:
            raise Conflict(f"sandbox {self.id} holds no network slot", code="not_running")
        return self.slot

    def report(self) -> SandboxReport:
        """What the control plane is told of it."""
        record = self.record
        return SandboxReport(
            id=record.id,
            state=record.state,
            snapshot_id=record.snapshot_id,
            vcpus=record.vcpus,
            memory_mib=record.memory_mib,
            guest_ip=str(DATA_GUEST),
            host_tap=f"{self.slot.name}/{self.slot.data_tap}" if self.slot else "",
            mac=DATA_GUEST_MAC,
            boot_mode=record.boot_mode,
            phases=record.phases,
            failure=record.failure,
            console_tail=record.console_tail,
            envd_version=record.envd_version,
        )

    def guest(self) -> GuestClient:
        """The client of its guest agent.

        Raises:
            Conflict: it is not running; says what it is.
        """
        if self.record.state is not State.RUNNING or self._guest is None:
            raise Conflict(
                f"sandbox {self.id} is {self.record.state}, commands need it running", code="not_running"
            )
        return self._guest

    def connect_guest(self) -> GuestClient:
        """A new client of the guest agent over this sandbox's control link; the former one's connections are
        dropped.
        """
        self._guest = GuestClient(self.held_slot().connect)
        return self._guest

    async def drop_guest(self) -> None:
        """Close the connections to the guest agent, if any."""
        guest, self._guest = self._guest, None
        if guest is not None:
            await guest.aclose()

    async def pause(self) -> None:
        """Freeze the guest's processors; memory stays. Its processes are held still first, so that a capture of
        the paused machine is like one of a running one.

        Raises:
            IllegalTransition: it is not running.
            VmmFailed: the VMM refused; the sandbox goes on running.
        """
        async with self.lock:
            state = advance(self.record.state, Event.PAUSE, sandbox_id=self.id)
            vmm, guest = self.machine(), self.guest()
            try:
                # One that does not answer is paused all the same.
                with contextlib.suppress(GuestUnreachable):
                    await guest.hold()
                await vmm.pause()
                self.save(state=state)
            except BaseException:
                await asyncio.shield(go_on(vmm, guest))
                raise

    async def resume(self) -> None:
        """Let a paused guest go on, with the clock put right.

        Raises:
            IllegalTransition: it is not paused.
        """
        async with self.lock:
            state = advance(self.record.state, Event.RESUME, sandbox_id=self.id)
            await self.machine().resume()
            self.save(state=state)
            await self.connect_guest().introduce(Identity(), deadline_seconds=GUEST_DEADLINE_SECONDS)

    async def restrict(self, egress: Egress) -> None:
        """Let it reach ``egress`` and no more: at once where it has a machine, and in whatever it is woken into.

        Raises:
            Conflict: it is being deleted.
            HostFailure: it could not be done; what was in force still is.
        """
        async with self.lock:
            if self.record.state in (State.STOPPING, State.DELETED):
                raise Conflict(f"sandbox {self.id} is being deleted", code="busy")
            before = self.record.egress
            # The record first: an agent that is killed in between makes the next one put it into force.
            self.save(egress=egress)
            try:
                if self.slot is not None:
                    await self._rooms.slots.restrict(self.slot, egress)
            except BaseException:
                self.save(egress=before)
                raise

    def watch(self) -> None:
        """Begin to notice when the VMM dies by itself."""
        self.unwatch()
        self._watcher = asyncio.create_task(self._watch(), name=f"watch-{self.id}")

    def unwatch(self) -> None:
        """Stop noticing; done before the VMM is ended on purpose."""
        if self._watcher is not None and self._watcher is not asyncio.current_task():
            self._watcher.cancel()
        self._watcher = None

    async def fail(self, reason: str) -> None:
        """Record that the machine is dead, keep its last words, and give back what it held.

        The disk stays, owned by root, until the sandbox is deleted.
        """
        tail = self.vmm.console_tail() if self.vmm is not None else self.record.console_tail
        self.save(state=advance(self.record.state, Event.DIED), failure=reason, console_tail=tail)
        await self.release_machine()
        with contextlib.suppress(FileNotFoundError):
            os.chown(self.machine_directory() / "disk", 0, 0)

    async def end_machine(self) -> None:
        """End the VMM and remove its cgroup and home; the slot stays. Idempotent."""
        self.unwatch()
        await self.drop_guest()
        self.vmm = None
        if self.slot is not None:
            await self._rooms.driver.clean(enclosure_of(self.directory, self.slot, self.record.generation))

    async def release_machine(self) -> None:
        """Give back VMM, cgroup and slot. Idempotent; the record names the slot until it is given back."""
        await self.end_machine()
        slot = self.slot
        if slot is not None:
            await self._rooms.slots.release(slot)
            self.slot = None
            if self.directory.exists():
                self.save(slot=None)

    async def destroy(self) -> None:
        """End the machine and remove every trace. Idempotent; may be called again after it failed half-way."""
        if self.directory.exists():
            self.save(state=State.STOPPING)
        await self.release_machine()
        await asyncio.to_thread(remove_tree, self.directory)
        self.record = self.record.with_(state=State.DELETED)

    def machine(self) -> Vmm:
        """Its VMM.

        Raises:
            Conflict: it has none.
        """
        if self.vmm is None:
            raise Conflict(f"sandbox {self.id} has no running machine", code="not_running")
        return self.vmm

    async def _watch(self) -> None:
        vmm = self.machine()
        end = await vmm.wait()
        async with self.lock:
            if self.vmm is not vmm:
                return
            reason = f"the VMM ended by itself ({end}); the machine's memory is lost, its disk is kept until delete"
            log.warning("sandbox.failed", sandbox=self.id, reason=reason)
            self._watcher = None
            await self.fail(reason)
        self._on_change(self.id)
