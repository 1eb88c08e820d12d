"""The create path: may they, what exactly, is there room; then row, machine, row.

Whatever happens after the row was written, either a running sandbox comes out or nothing is left: the work
is a job of its own, so a caller that goes away does not stop it half-way. A create with an idempotency key
happens once, however often it is sent.
"""

from __future__ import annotations

import asyncio
import secrets
import string
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

import structlog

from pandastackd.config import Settings
from pandastackd.control import labels, rows
from pandastackd.control.admission import admit
from pandastackd.control.background import Background
from pandastackd.control.clock import Clock
from pandastackd.control.host import HostAgent
from pandastackd.control.keys import AccessTokens, Principal
from pandastackd.control.lifetime import TtlFrom, checked_ttl
from pandastackd.control.network import Network
from pandastackd.control.templates import Templates
from pandastackd.domain import SandboxReport, SandboxSpec
from pandastackd.errors import Conflict, InvalidRequest, NotFound, PlatformError, VmmFailed
from pandastackd.lifecycle import Event, State, advance
from pandastackd.store import IdempotencyRow, SandboxRow, Store

log = structlog.get_logger(__name__)

LEASE = timedelta(minutes=5)
"""How long a create may take before its row is taken for abandoned."""

REPLAY_WAIT_SECONDS = 60.0
REPLAY_PAUSE_SECONDS = 0.05
MAX_KEY = 256

_ALPHABET = string.ascii_lowercase + string.digits
_ID_LENGTH = 20  # 103 bits: the id is what protects a preview URL


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """What a caller asks for.

    Attributes:
        template: name or alias; not looked at when ``from_snapshot`` is given.
        ttl_seconds: ``None`` is the platform's default.
        ttl_from: what that counts from.
        on_timeout: what becomes of it when its time is up.
        wake_on_traffic: traffic from outside wakes it when it is hibernated; its owner's calls always do.
        idempotency_key: the caller's name for this create; ``digest`` is the hash of all it asked for.
    """

    template: str
    from_snapshot: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    ttl_seconds: int | None = None
    ttl_from: TtlFrom = TtlFrom.USE
    persistent: bool = False
    on_timeout: Literal["delete", "hibernate"] = "delete"
    wake_on_traffic: bool = True
    network: Network = field(default_factory=Network)
    env: dict[str, str] = field(default_factory=dict, repr=False)
    idempotency_key: str | None = None
    digest: str = ""


class Creator:
    """Makes sandboxes on one host."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        host_id: str,
        templates: Templates,
        tokens: AccessTokens,
        settings: Settings,
        background: Background,
        now: Clock,
    ) -> None:
        self._store = store
        self._host = host
        self._host_id = host_id
        self._templates = templates
        self._tokens = tokens
        self._settings = settings
        self._background = background
        self._now = now

    async def create(self, principal: Principal, request: CreateRequest) -> SandboxRow:
        """Make a sandbox; answers when its guest has answered.

        Raises:
            InvalidRequest: the lifetime is out of range, or the network cannot be as it is asked for; more labels
                than are kept, or one that only forks have.
            NotFound: no such template, or no such snapshot of this workspace.
            InsufficientStorage, NoCapacity: no room; nothing was made.
            Conflict: the idempotency key was used for something else, or its sandbox is gone.
            VmmFailed, GuestUnreachable: it did not start; everything was undone.
        """
        ttl = checked_ttl(request.ttl_seconds, self._settings)
        request.network.egress(self._settings)
        labels.check_fresh(request.metadata)
        if request.idempotency_key is not None and len(request.idempotency_key) > MAX_KEY:
            raise InvalidRequest(f"Idempotency-Key is too long: at most {MAX_KEY} characters")
        while True:
            earlier = await self._earlier(principal, request)
            if earlier is not None:
                return earlier
            row = await self._planned(principal, request, ttl)
            if await self._store.sandboxes.add(row, idempotency=self._key_row(row, request)):
                break
        making = self._background.spawn(self._make(row, request), name=f"create-{row.id}")
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            # Without a key, nobody can ever ask for this sandbox again.
            if request.idempotency_key is None:
                self._background.spawn(self._abandon(making, row), name=f"abandon-{row.id}")
            raise

    async def _planned(self, principal: Principal, request: CreateRequest, ttl: int) -> SandboxRow:
        if request.from_snapshot is not None:
            snapshot = await self._store.snapshots.owned(principal.workspace, request.from_snapshot)
            if snapshot is None:
                raise NotFound(f"no snapshot {request.from_snapshot}", code="snapshot_not_found")
            template, snapshot_id = snapshot.template, snapshot.id
            vcpus, memory_mib = snapshot.vcpus, snapshot.memory_mib
        else:
            found = await self._templates.find(request.template)
            template, snapshot_id = found.name, found.snapshot_id
            vcpus, memory_mib = found.vcpus, found.memory_mib
        admit(await self._host.capacity(), memory_mib, self._settings)
        return rows.fresh(
            sandbox_id=new_id(),
            workspace=principal.workspace,
            host=self._host_id,
            template=template,
            snapshot_id=snapshot_id,
            from_snapshot=request.from_snapshot,
            vcpus=vcpus,
            memory_mib=memory_mib,
            metadata=request.metadata,
            ttl_seconds=ttl,
            ttl_from=request.ttl_from,
            persistent=request.persistent,
            on_timeout=request.on_timeout,
            wake_on_traffic=request.wake_on_traffic,
            network=request.network.as_dict(),
            now=self._now(),
            lease=LEASE,
        )

    async def _make(self, row: SandboxRow, request: CreateRequest) -> SandboxRow:
        egress = request.network.egress(self._settings)
        spec = SandboxSpec(row.id, row.snapshot_id, request.env, self._tokens.of(row.id), egress)
        try:
            return await self.running(row, await self._host.create(spec))
        except BaseException as error:
            await self.undo(row, error)
            raise

    async def running(self, row: SandboxRow, report: SandboxReport) -> SandboxRow:
        """Write down that the host has made the sandbox of a half-made row.

        Raises:
            VmmFailed: it died meanwhile.
            Conflict: it was deleted meanwhile.
        """
        now = self._now()
        state = advance(State(row.state), Event.STARTED, sandbox_id=row.id)
        made = await self._store.sandboxes.change(
            row.id,
            expected=[row.state],
            values=rows.started(row, report, state, now),
            event=rows.event(row, "sandbox.running", now, boot_ms=round(report.phases.total, 2)),
        )
        if made is not None:
            return made
        seen = await self._store.sandboxes.get(row.id)
        if seen is not None and seen.state == State.FAILED:
            raise VmmFailed(
                f"sandbox {row.id} died while it was created: {seen.failure}", console_tail=seen.console_tail
            )
        raise Conflict(f"sandbox {row.id} was deleted while it was created", code="deleted")

    async def undo(self, row: SandboxRow, error: BaseException) -> None:
        """Remove every trace of a sandbox that did not come to be."""
        reason = error.message if isinstance(error, PlatformError) else type(error).__name__
        log.warning("sandbox.create_failed", sandbox=row.id, reason=reason)
        await self._host.delete(row.id)
        event = rows.event(row, "sandbox.create_failed", self._now(), reason=reason)
        await self._store.sandboxes.remove(row.id, event=event, forget_key=True)

    async def _abandon(self, making: asyncio.Task[SandboxRow], row: SandboxRow) -> None:
        with suppress(Exception):  # a failed create has undone itself
            await making
            await self._host.delete(row.id)
            event = rows.event(row, "sandbox.deleted", self._now(), reason="the caller went away")
            await self._store.sandboxes.remove(row.id, event=event)

    async def _earlier(self, principal: Principal, request: CreateRequest) -> SandboxRow | None:
        """What the same create made when it was sent before; waits for one that is still at it."""
        if request.idempotency_key is None:
            return None
        deadline = asyncio.get_running_loop().time() + REPLAY_WAIT_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            used = await self._store.idempotency.get(principal.workspace, request.idempotency_key)
            if used is None:
                return None
            if used.digest != request.digest:
                raise Conflict(
                    "this Idempotency-Key was used for a different create; use a new key for a new sandbox",
                    code="idempotency_mismatch",
                )
            row = await self._store.sandboxes.get(used.sandbox_id)
            if row is None:
                # Looked at again, since a failed create forgets its key together with its row.
                if await self._store.idempotency.get(principal.workspace, request.idempotency_key) is None:
                    return None
                raise Conflict(
                    f"this Idempotency-Key made sandbox {used.sandbox_id}, which is deleted; use a new key",
                    code="idempotency_gone",
                )
            if row.state != State.CREATING:
                return row
            await asyncio.sleep(REPLAY_PAUSE_SECONDS)
        raise Conflict("the first create with this Idempotency-Key is still at it; try again", code="busy")

    def _key_row(self, row: SandboxRow, request: CreateRequest) -> IdempotencyRow | None:
        if request.idempotency_key is None:
            return None
        return IdempotencyRow(
            workspace=row.workspace,
            key=request.idempotency_key,
            sandbox_id=row.id,
            digest=request.digest,
            created_at=row.created_at,
        )


def new_id() -> str:
    """A fresh sandbox id."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))
