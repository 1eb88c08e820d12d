"""The life of sandboxes after create: look, use, move, lengthen, end.

This is where it is decided whether a caller may; how a move is made is in ``moves``. Somebody else's sandbox is not
there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

import structlog

from pandastackd.config import Settings
from pandastackd.control import rows
from pandastackd.control.background import Background
from pandastackd.control.clock import Clock
from pandastackd.control.creation import CreateRequest, Creator
from pandastackd.control.host import Guest, HostAgent
from pandastackd.control.keys import Principal
from pandastackd.control.lifetime import TtlFrom, checked_ttl, end_when_set
from pandastackd.control.moves import LEASE, Moves, gone, missing, not_running
from pandastackd.control.network import Network
from pandastackd.control.usage import Usage
from pandastackd.domain import MachineUsage
from pandastackd.errors import Conflict, InvalidRequest, NotFound
from pandastackd.guest.types import Usage as GuestUsage
from pandastackd.lifecycle import TRANSITIONS, Event, State, advance
from pandastackd.store import EventRow, SandboxRow, Store

log = structlog.get_logger(__name__)

DELETABLE = frozenset(state.value for state, arrows in TRANSITIONS.items() if Event.DELETE in arrows)

SETTLED = frozenset({State.RUNNING.value, State.PAUSED.value, State.HIBERNATED.value})
"""States in which a sandbox is there and stays: its host has it, and what it is made of can be changed."""


@dataclass(frozen=True, slots=True)
class Lifetime:
    """How long a sandbox lives, and how long nobody has used it."""

    ttl_seconds: int
    persistent: bool
    idle_seconds: float


class Sandboxes:
    """Everything a caller may do with sandboxes."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        creator: Creator,
        moves: Moves,
        usage: Usage,
        settings: Settings,
        background: Background,
        now: Clock,
    ) -> None:
        self._store = store
        self._host = host
        self._creator = creator
        self._moves = moves
        self._usage = usage
        self._settings = settings
        self._background = background
        self._now = now

    async def create(self, principal: Principal, request: CreateRequest) -> SandboxRow:
        """Make a sandbox. See :meth:`Creator.create`."""
        return await self._creator.create(principal, request)

    async def get(self, principal: Principal, sandbox_id: str) -> SandboxRow:
        """One sandbox.

        Raises:
            NotFound: it is not there, or not the caller's.
        """
        row = await self._store.sandboxes.owned(principal.workspace, sandbox_id)
        if row is None:
            raise missing(sandbox_id)
        return row

    async def listed(self, principal: Principal) -> Sequence[SandboxRow]:
        """The caller's sandboxes, newest first."""
        return await self._store.sandboxes.listed(principal.workspace)

    async def counts(self) -> dict[str, int]:
        """How many sandboxes there are in each state, of all workspaces."""
        return await self._store.sandboxes.counts()

    async def events(self, principal: Principal, sandbox_id: str, *, limit: int) -> Sequence[EventRow]:
        """The last ``limit`` events of a sandbox, oldest first; also of one that is gone.

        Raises:
            NotFound: the caller never had such a sandbox.
        """
        found = await self._store.events.tail(principal.workspace, sandbox_id, limit=limit)
        if not found:
            await self.get(principal, sandbox_id)
        return found

    @asynccontextmanager
    async def use(self, principal: Principal, sandbox_id: str) -> AsyncIterator[Guest]:
        """The guest of a sandbox, which counts as in use inside the block. One that is hibernated is woken first.

        Raises:
            NotFound: it is not there, or not the caller's.
            Conflict: it is not running; says what it is and what to do.
            NoCapacity, InsufficientStorage, VmmFailed: it could not be woken, and sleeps on.
        """
        row = await self._moves.ready(await self.get(principal, sandbox_id))
        guest = self._host.guest(row.id)
        with self._usage.hold(row):
            yield guest

    async def metrics(self, principal: Principal, sandbox_id: str) -> Sequence[GuestUsage]:
        """What a sandbox used, oldest first, up to now; asking neither wakes it nor counts as use.

        Raises:
            NotFound: it is not there, or not the caller's.
        """
        row = await self.get(principal, sandbox_id)
        return await self._host.usage(row.id) if row.state in SETTLED else []

    async def machine_usage(self, principal: Principal, sandbox_id: str) -> MachineUsage:
        """What a sandbox's machine takes of its host just now.

        Raises:
            NotFound: it is not there, or not the caller's.
            Conflict: it has no machine.
        """
        return await self._host.machine_usage((await self.get(principal, sandbox_id)).id)

    async def pause(self, principal: Principal, sandbox_id: str) -> SandboxRow:
        """Freeze a sandbox in memory.

        Raises:
            NotFound: it is not there, or not the caller's.
            IllegalTransition: it is not running.
            Conflict: something else moves it just now.
        """
        return await self._moves.pause(await self.get(principal, sandbox_id))

    async def resume(self, principal: Principal, sandbox_id: str) -> SandboxRow:
        """Let a paused sandbox go on. Raises as :meth:`pause`."""
        return await self._moves.resume(await self.get(principal, sandbox_id))

    async def hibernate(self, principal: Principal, sandbox_id: str) -> SandboxRow:
        """Put a sandbox's memory to disk and end its machine; its next use wakes it.

        Raises:
            NotFound: it is not there, or not the caller's.
            IllegalTransition: it is neither running nor paused.
            Conflict: something else moves it just now.
            InsufficientStorage, VmmFailed: it could not be done; it goes on as it was.
        """
        return await self._moves.hibernate(await self.get(principal, sandbox_id))

    async def wake(self, principal: Principal, sandbox_id: str) -> SandboxRow:
        """Start a hibernated sandbox where it stopped; one that runs is awake already.

        Raises:
            NotFound: it is not there, or not the caller's.
            IllegalTransition: it is neither hibernated nor running.
            NoCapacity, InsufficientStorage, VmmFailed: it could not be started, and sleeps on.
        """
        return await self._moves.wake(await self.get(principal, sandbox_id))

    async def rollback(self, principal: Principal, sandbox_id: str, snapshot_id: str) -> SandboxRow:
        """Return a sandbox, under the same id, to what it or a relative was at a snapshot.

        Raises:
            NotFound: the sandbox or the snapshot is not there, or not the caller's.
            IllegalTransition: it is in no state to be rolled back.
            Conflict: something else moves it just now, or the snapshot is of a machine of another size.
            InsufficientStorage, VmmFailed: it could not be done; it goes on as it was.
        """
        row = await self.get(principal, sandbox_id)
        snapshot = await self._store.snapshots.owned(principal.workspace, snapshot_id)
        if snapshot is None:
            raise NotFound(f"no snapshot {snapshot_id}", code="snapshot_not_found")
        return await self._moves.rollback(row, snapshot)

    async def delete(self, principal: Principal, sandbox_id: str, *, reason: str = "request") -> None:
        """End a sandbox and remove every trace.

        Raises:
            NotFound: it is not there, or not the caller's.
        """
        row = await self.get(principal, sandbox_id)
        state = advance(State(row.state), Event.DELETE, sandbox_id=row.id)
        until = self._now() + LEASE
        values = {"state": state.value, "operation": "delete", "operation_until": until}
        row = await self._store.sandboxes.change(row.id, expected=DELETABLE, values=values) or gone(row.id)
        await asyncio.shield(self._background.spawn(self.end(row, reason), name=f"delete-{row.id}"))

    async def end(self, row: SandboxRow, reason: str) -> None:
        """Finish the delete of a sandbox that is already stopping. A failure leaves it so, to be tried
        again.
        """
        await self._host.delete(row.id)
        event = rows.event(row, "sandbox.deleted", self._now(), reason=reason)
        await self._store.sandboxes.remove(row.id, event=event)
        self._usage.forget(row.id)

    async def lifetime(self, principal: Principal, sandbox_id: str) -> Lifetime:
        """How long a sandbox lives.

        Raises:
            NotFound: it is not there, or not the caller's.
        """
        return self._lifetime(await self.get(principal, sandbox_id))

    async def set_lifetime(
        self,
        row: SandboxRow,
        *,
        ttl_seconds: int | None = None,
        persistent: bool | None = None,
        ttl_from: TtlFrom = TtlFrom.USE,
    ) -> Lifetime:
        """Change how long a sandbox lives, counted from now.

        Args:
            row: the sandbox, as :meth:`get` gave it to the caller.
            ttl_from: what a new time to live counts from.

        Raises:
            InvalidRequest: nothing to change, or the time to live is out of range.
            Conflict: it is being deleted.
        """
        if ttl_seconds is None and persistent is None:
            raise InvalidRequest("nothing to change: send ttl_seconds or persistent")
        ttl = row.ttl_seconds if ttl_seconds is None else checked_ttl(ttl_seconds, self._settings)
        counted = TtlFrom(row.ttl_from) if ttl_seconds is None else ttl_from
        keep = row.persistent if persistent is None else persistent
        now = self._now()
        values = {
            "ttl_seconds": ttl,
            "ttl_from": counted.value,
            "persistent": keep,
            "last_used_at": now,
            "expires_at": end_when_set(row, counted, ttl, keep, now, self._settings),
        }
        changed = None
        if row.state != State.STOPPING:
            changed = await self._store.sandboxes.change(row.id, expected=[row.state], values=values)
        if changed is None:
            raise Conflict(f"sandbox {row.id} is being deleted or moved; try again", code="busy")
        return self._lifetime(changed)

    async def set_network(
        self,
        principal: Principal,
        sandbox_id: str,
        *,
        internet: bool,
        allow_out: Sequence[str],
        deny_out: Sequence[str],
    ) -> SandboxRow:
        """Change where a sandbox may connect to, as a whole and at once: flows that are no longer allowed end.

        Raises:
            NotFound: it is not there, or not the caller's.
            InvalidRequest: the network cannot be as it is asked for.
            Conflict: it failed, or is being made or deleted.
            HostFailure: it could not be done; what was in force still is.
        """
        row = await self.get(principal, sandbox_id)
        network = replace(
            Network.of(row.network), internet=internet, allow_out=tuple(allow_out), deny_out=tuple(deny_out)
        )
        egress = network.egress(self._settings)
        if row.state not in SETTLED:
            raise not_running(row)

        async def work() -> SandboxRow:
            await self._host.restrict(row.id, egress)
            event = rows.event(
                row, "sandbox.network_changed", self._now(), allow=egress.allow, deny=egress.deny
            )
            return await self._store.sandboxes.change(
                row.id, expected=SETTLED, values={"network": network.as_dict()}, event=event
            ) or gone(row.id)

        return await asyncio.shield(self._background.spawn(work(), name=f"network-{row.id}"))

    async def prolong(self, row: SandboxRow, seconds: int) -> None:
        """Let a sandbox live at least ``seconds`` from now; one that lives longer is left as it is.

        Raises:
            InvalidRequest, Conflict: as :meth:`set_lifetime`.
        """
        if row.expires_at is None:
            return
        counted = TtlFrom(row.ttl_from)
        ttl = seconds if counted is TtlFrom.SET else max(seconds, row.ttl_seconds)
        if self._now() + timedelta(seconds=ttl) > row.expires_at:
            await self.set_lifetime(row, ttl_seconds=ttl, ttl_from=counted)

    def _lifetime(self, row: SandboxRow) -> Lifetime:
        idle = 0.0 if self._usage.is_active(row.id) else (self._now() - row.last_used_at).total_seconds()
        return Lifetime(row.ttl_seconds, row.persistent, round(max(0.0, idle), 3))
