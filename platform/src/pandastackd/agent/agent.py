"""The host agent: what control calls to make, move and end sandboxes on this host.

Opening it reads as the life of the process: make the rooms, adopt what survived a restart, bury what did not.
Closing it ends nothing that runs: VMMs outlive the agent (ARCHITECTURE.md, decision 7).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Self

import structlog

from pandastackd.agent.adoption import adopt_or_bury, slots_in_use
from pandastackd.agent.birth import give_birth
from pandastackd.agent.capturing import capture_sandbox
from pandastackd.agent.forking import fork_sandbox, remove_leftover_captures
from pandastackd.agent.guest_program import load_program
from pandastackd.agent.ledger import VMM_COST_MIB, MemoryLedger
from pandastackd.agent.moves import hibernate, rollback, wake
from pandastackd.agent.rooms import Rooms
from pandastackd.agent.sampling import Sampler
from pandastackd.agent.sandbox import Sandbox
from pandastackd.agent.shelf import template_reports, user_snapshots
from pandastackd.config import Settings
from pandastackd.disk.layout import DataDir
from pandastackd.disk.space import require_free
from pandastackd.domain import (
    Egress,
    ForkReport,
    HostCapacity,
    MachineUsage,
    SandboxReport,
    SandboxSpec,
    SnapshotReport,
    TemplateReport,
)
from pandastackd.errors import Conflict, NotFound
from pandastackd.guest import GuestClient
from pandastackd.guest.types import Usage
from pandastackd.lifecycle import State
from pandastackd.network import SlotPool
from pandastackd.programs import find_program
from pandastackd.snapshot import Kind, MemoryTool, Snapshot, SnapshotStore, require_restorable
from pandastackd.vmm import choose_driver

log = structlog.get_logger(__name__)

CREATE_DISK_MIB = 64
"""Least free space for one more sandbox: a clone shares its template's blocks and grows only by what it writes."""


class Agent:
    """The public face of a host: one object a process, safe for concurrent calls from one event loop."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._sandboxes: dict[str, Sandbox] = {}
        self._ledger = MemoryLedger(rooms.settings.memory_overcommit, rooms.settings.memory_reserve_mib)
        self._changes: asyncio.Queue[str] = asyncio.Queue()
        self._sampler = Sampler(self._sandboxes, rooms.settings.metrics_seconds)

    @classmethod
    async def open(cls, settings: Settings, data: DataDir) -> Self:
        """Make the rooms and take over what an earlier agent left.

        Args:
            settings: the operator's settings.
            data: a prepared data directory.
        """
        driver = await choose_driver(settings)
        slots = SlotPool.from_settings(settings)
        snapshots = SnapshotStore(data.snapshots, data.staging)
        memory = MemoryTool(find_program("pandastack-memory"))
        guest_agent = await load_program(find_program("guest-agent"))
        self = cls(Rooms(settings, data, driver, slots, snapshots, memory, guest_agent))
        await slots.start(adopt=slots_in_use(data))
        for sandbox in await adopt_or_bury(self._rooms, self._changes.put_nowait):
            self._sandboxes[sandbox.id] = sandbox
            if sandbox.vmm is not None:
                self._ledger.keep(sandbox.id, sandbox.record.memory_mib)
        await remove_leftover_captures(self._rooms)
        self._sampler.start()
        return self

    async def close(self) -> None:
        """Let go of everything; sandboxes go on running and the next agent adopts them."""
        await self._sampler.close()
        for sandbox in self._sandboxes.values():
            sandbox.unwatch()
            await sandbox.drop_guest()
        await self._rooms.slots.close()

    @property
    def rooms(self) -> Rooms:
        """The collaborators, for the template builder, which works on the same host."""
        return self._rooms

    async def capacity(self) -> HostCapacity:
        """What the host has and what is promised of it."""
        rooms = self._rooms
        return HostCapacity(
            memory_total_mib=self._ledger.total_mib,
            memory_promised_mib=self._ledger.promised_mib,
            memory_free_mib=self._ledger.free_mib,
            disk_free_mib=await asyncio.to_thread(rooms.data.free_mib),
            slots_total=rooms.slots.total,
            slots_used=rooms.slots.used,
            overcommit=rooms.settings.memory_overcommit,
            vmm_cost_mib=VMM_COST_MIB,
        )

    async def templates(self) -> list[TemplateReport]:
        """The templates that are baked here, newest bake of each name."""
        return await asyncio.to_thread(template_reports, self._rooms)

    async def create(self, spec: SandboxSpec) -> SandboxReport:
        """Restore a snapshot as a new sandbox; answers when its guest has answered.

        Raises:
            NotFound: the snapshot is not on this host.
            Conflict: the id is taken.
            InsufficientStorage: memory or disk is short; nothing was made.
            NoCapacity: every network slot is in use; nothing was made.
            VmmFailed, GuestUnreachable: the restore failed; everything was undone.
        """
        if spec.id in self._sandboxes:
            raise Conflict(f"sandbox {spec.id} exists already", code="already_exists")
        snapshot = self._restorable(spec.snapshot_id)
        require_free(
            self._rooms.data,
            CREATE_DISK_MIB,
            reserve_mib=self._rooms.settings.disk_reserve_mib,
            what="create a sandbox",
        )
        self._ledger.promise(spec.id, snapshot.manifest.memory_mib)
        try:
            sandbox = await give_birth(self._rooms, spec, snapshot, self._died)
        except BaseException:
            self._ledger.release(spec.id)
            raise
        self._sandboxes[spec.id] = sandbox
        return sandbox.report()

    async def delete(self, sandbox_id: str) -> None:
        """End a sandbox and remove every trace of it. Deleting what is not there is no error."""
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None:
            return
        async with sandbox.lock:
            await asyncio.shield(sandbox.destroy())
        self._ledger.release(sandbox_id)
        self._sandboxes.pop(sandbox_id, None)

    async def report(self, sandbox_id: str) -> SandboxReport:
        """What is known of one sandbox.

        Raises:
            NotFound: it is not on this host.
        """
        return self._find(sandbox_id).report()

    async def reports(self) -> list[SandboxReport]:
        """What is known of every sandbox on this host."""
        return [sandbox.report() for sandbox in self._sandboxes.values()]

    async def pause(self, sandbox_id: str) -> SandboxReport:
        """Freeze a sandbox in memory. See :meth:`Sandbox.pause`."""
        sandbox = self._find(sandbox_id)
        await sandbox.pause()
        return sandbox.report()

    async def resume(self, sandbox_id: str) -> SandboxReport:
        """Let a paused sandbox go on. See :meth:`Sandbox.resume`."""
        sandbox = self._find(sandbox_id)
        await sandbox.resume()
        return sandbox.report()

    async def hibernate(self, sandbox_id: str) -> SandboxReport:
        """Move a sandbox's memory to disk and end its VMM. See :func:`pandastackd.agent.moves.hibernate`."""
        sandbox = self._find(sandbox_id)
        async with sandbox.lock:
            await hibernate(self._rooms, sandbox)
            self._ledger.release(sandbox_id)
        return sandbox.report()

    async def wake(self, sandbox_id: str) -> SandboxReport:
        """Start a hibernated sandbox where it stopped. See :func:`pandastackd.agent.moves.wake`."""
        sandbox = self._find(sandbox_id)
        async with sandbox.lock:
            if sandbox.record.state is not State.RUNNING:  # somebody else may have woken it meanwhile
                async with self._promised(sandbox):
                    await wake(self._rooms, sandbox)
        return sandbox.report()

    async def rollback(self, sandbox_id: str, snapshot_id: str) -> SandboxReport:
        """Put an earlier instant in place of the present one. See :func:`pandastackd.agent.moves.rollback`."""
        sandbox = self._find(sandbox_id)
        snapshot = self._restorable(snapshot_id)
        async with sandbox.lock, self._promised(sandbox):
            await rollback(self._rooms, sandbox, snapshot)
        return sandbox.report()

    async def restrict(self, sandbox_id: str, egress: Egress) -> None:
        """Change what a sandbox may reach. See :meth:`Sandbox.restrict`."""
        await self._find(sandbox_id).restrict(egress)

    async def snapshot(self, sandbox_id: str, snapshot_id: str) -> SnapshotReport:
        """Capture a running or paused sandbox; it goes on. See :func:`pandastackd.agent.capturing.capture_sandbox`."""
        sandbox = self._find(sandbox_id)
        async with sandbox.lock:
            captured = await capture_sandbox(self._rooms, sandbox, snapshot_id, kind=Kind.SNAPSHOT)
        return captured.report

    async def snapshots(self) -> list[str]:
        """Ids of users' snapshots on this host, and of whatever cannot be read and may be one."""
        return await asyncio.to_thread(user_snapshots, self._rooms)

    async def delete_snapshot(self, snapshot_id: str) -> None:
        """Remove a snapshot; sandboxes that run on it keep what they need. What is not there is no error."""
        with suppress(NotFound):
            await self._rooms.snapshots.delete(snapshot_id)

    async def fork(self, parent_id: str, specs: Sequence[SandboxSpec]) -> ForkReport:
        """Fork a sandbox into one child a spec. See :func:`pandastackd.agent.forking.fork_sandbox`."""
        fork = await fork_sandbox(self._rooms, self._ledger, self._find(parent_id), specs, self._died)
        for child in fork.children:
            if isinstance(child, Sandbox):
                self._sandboxes[child.id] = child
        children = tuple(child.report() if isinstance(child, Sandbox) else child for child in fork.children)
        return ForkReport(fork.captured.report, children)

    def guest(self, sandbox_id: str) -> GuestClient:
        """The client of a running sandbox's guest agent.

        Raises:
            NotFound: it is not on this host.
            Conflict: it is not running.
        """
        return self._find(sandbox_id).guest()

    async def usage(self, sandbox_id: str) -> list[Usage]:
        """What a sandbox used, oldest first, up to now. See :meth:`Sampler.history`."""
        return await self._sampler.history(self._find(sandbox_id))

    async def machine_usage(self, sandbox_id: str) -> MachineUsage:
        """What a sandbox takes of the host just now. See :meth:`Sampler.machine`."""
        return self._sampler.machine(self._find(sandbox_id))

    async def wait_change(self) -> str:
        """The id of the next sandbox whose state changed by itself."""
        return await self._changes.get()

    def _find(self, sandbox_id: str) -> Sandbox:
        try:
            return self._sandboxes[sandbox_id]
        except KeyError:
            raise NotFound(f"sandbox {sandbox_id} is not on this host") from None

    def _restorable(self, snapshot_id: str) -> Snapshot:
        snapshot = self._rooms.snapshots.get(snapshot_id)
        require_restorable(snapshot.manifest, self._rooms.driver.identity())
        return snapshot

    @asynccontextmanager
    async def _promised(self, sandbox: Sandbox) -> AsyncIterator[None]:
        """Memory for a machine that is started in the block; afterwards the promise stands if there is a machine."""
        if sandbox.vmm is None:
            self._ledger.promise(sandbox.id, sandbox.record.memory_mib)
        try:
            yield
        finally:
            if sandbox.vmm is None:
                self._ledger.release(sandbox.id)

    def _died(self, sandbox_id: str) -> None:
        self._ledger.release(sandbox_id)
        self._changes.put_nowait(sandbox_id)
