"""The pool that all network slots of a host come from and go back to.

A slot's number is its identity: name, addresses and user id follow from it. Numbers are recycled, the one
unused for longest first. A slot that a guest has used is never handed on: it is removed, connection state and
all, and its number made anew when its turn comes. A few slots are kept made ahead, so that a create need not
wait for the kernel.

    free ──make──▶ ready ──acquire──▶ used ──release──▶ going ──remove──▶ free

All methods belong to one event loop; the kernel is spoken to in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final, Self

import structlog

from pandastackd.config import Settings
from pandastackd.domain import Egress
from pandastackd.errors import HostFailure, NoCapacity, NotFound, PlatformError
from pandastackd.network import host, namespace, policy
from pandastackd.network.addresses import SLOT_COUNT, AddressPlan
from pandastackd.network.links import SlotMaker, Step
from pandastackd.network.policy import Policy
from pandastackd.network.resolvers import choose_resolvers
from pandastackd.network.slot import Slot

log = structlog.get_logger(__name__)

MAKERS: Final = 2
"""Slots made or removed at the same time; the kernel serialises most of it anyway."""
RETRY_SECONDS: Final = (0.5, 30.0)
"""First and longest pause after a slot could not be made ahead or removed."""


class SlotPool:
    """All slots of this host.

    Args:
        plan: how numbers become addresses.
        rules: the policy of every slot and of the host.
        uid_base: VMM processes run as this user id + slot number.
        ready: how many slots to keep made ahead.
        count: how many slots there may be.
        lock: held while started: one pool a host.
        on_step: see :class:`SlotMaker`.
    """

    def __init__(
        self,
        plan: AddressPlan,
        rules: Policy,
        *,
        uid_base: int,
        ready: int = 4,
        count: int = SLOT_COUNT,
        lock: Path = host.LOCK,
        on_step: Step | None = None,
    ) -> None:
        if not 0 < count <= SLOT_COUNT:
            raise ValueError(f"count must be between 1 and {SLOT_COUNT}, not {count}")
        self._plan = plan
        self._rules = rules
        self._uid_base = uid_base
        self._want_ready = ready
        self._count = count
        self._on_step = on_step
        self._lock = host.NetworkLock(lock)
        self._maker: SlotMaker | None = None
        self._free: deque[int] = deque()
        self._ready: deque[int] = deque()
        self._used: set[int] = set()
        self._making = 0
        self._going: set[int] = set()
        self._wake = asyncio.Event()
        self._hands = asyncio.Semaphore(MAKERS)
        self._jobs: set[asyncio.Task[Any]] = set()
        self._keeper: asyncio.Task[None] | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The pool that the settings describe.

        Raises:
            InvalidRequest: the network setting cannot be cut into slots.
        """
        resolvers = choose_resolvers(settings.dns_servers)
        if not resolvers:
            log.warning(
                "network.no_resolvers",
                meaning="guests have no DNS: this host has no IPv4 resolver beyond loopback",
                remedy="set PANDASTACK_DNS_SERVERS",
            )
        return cls(
            AddressPlan(settings.network),
            Policy(settings.network, resolvers, openable=tuple(settings.openable_networks)),
            uid_base=settings.uid_base,
            ready=settings.slots_ready,
        )

    @property
    def total(self) -> int:
        """How many slots there may be."""
        return self._count

    @property
    def used(self) -> int:
        """How many are handed out."""
        return len(self._used)

    @property
    def ready(self) -> int:
        """How many are made and wait to be handed out."""
        return len(self._ready)

    async def start(self, adopt: Mapping[int, Egress] | None = None) -> frozenset[int]:
        """Prepare the host, take over the slots in ``adopt``, remove all others found, begin to make ahead.

        Args:
            adopt: numbers that sandboxes of an earlier agent hold, and what those may reach. They count as used
                whatever is left of them (after a reboot: nothing), until they are released.

        Returns:
            Those of ``adopt`` that are whole and carry today's policy.

        Raises:
            Conflict: another agent runs on this host, or the host uses the slots' network for something else.
            HostFailure: the kernel or nft refused; nothing of ``adopt`` is harmed.
            ValueError: ``adopt`` names a number that cannot exist.
        """
        egress = dict(adopt or {})
        keep = set(egress)
        for number in keep:
            self._plan.slot(number)
        await namespace.in_thread(self._lock.acquire)
        try:
            whole = await namespace.in_thread(lambda: self._prepare_host(egress))
        except BaseException:
            if self._maker is not None:
                self._maker.close()
                self._maker = None
            self._lock.release()
            raise
        self._used = keep
        self._free = deque(number for number in range(self._count) if number not in keep)
        self._keeper = asyncio.create_task(self._keep_ready(), name="network slots")
        return whole

    def _prepare_host(self, keep: dict[int, Egress]) -> frozenset[int]:
        """Runs in a thread. Ends with the host's table in place and no slot but those to keep."""
        host.check_free(self._plan.network, host.host_claims())
        for resolver in self._rules.resolvers:
            host.check_free(self._plan.network, [host.resolver_claim(resolver)])
        namespace.ensure_directory()
        policy.apply_rules(self._rules.host_rules())
        if host.enable_forwarding():
            log.info("network.forwarding_enabled", setting="net.ipv4.ip_forward")
        maker = SlotMaker(self._plan, self._rules, uid_base=self._uid_base, on_step=self._on_step)
        self._maker = maker
        leftovers = maker.leftovers() - keep.keys()
        for number in sorted(leftovers):
            maker.remove(number)
        if leftovers:
            log.info("network.leftovers_removed", count=len(leftovers))
        whole = frozenset(number for number in keep if maker.is_whole(number))
        for number in whole:
            maker.renew_policy(number, keep[number])
        if broken := keep.keys() - whole:
            log.warning("network.adopted_slots_broken", numbers=sorted(broken))
        return whole

    def slot(self, number: int) -> Slot:
        """The handle of a slot in use.

        Raises:
            NotFound: no such slot is in use.
        """
        if number not in self._used:
            raise NotFound(f"network slot {number} is not in use", code="slot_not_found")
        return self._handle(number)

    def _handle(self, number: int) -> Slot:
        addresses = self._plan.slot(number)
        return Slot(
            number=number,
            name=addresses.namespace,
            netns=namespace.NETNS_DIR / addresses.namespace,
            uid=self._uid_base + number,
            host_ip=addresses.host_ip,
            uplink_ip=addresses.uplink_ip,
        )

    async def acquire(self) -> Slot:
        """A slot that nobody else has: one made ahead, at once; else one made now.

        Raises:
            NoCapacity: every slot is in use.
            HostFailure: a slot could not be made.
        """
        if self._ready:
            number = self._ready.popleft()
            self._wake.set()
        else:
            if not self._free:
                raise self._exhausted()
            making = self._begin_making()
            try:
                number = await asyncio.shield(making)
            except asyncio.CancelledError:
                # It will be whole in a moment; whoever comes next has it.
                making.add_done_callback(self._keep_for_next)
                raise
        self._used.add(number)
        return self._handle(number)

    def _exhausted(self) -> NoCapacity:
        soon = bool(self._going or self._making)
        return NoCapacity(
            f"all {self._count} network slots of {self._plan.network} on this host are in use: "
            + (
                "some are being cleaned, try again in a moment" if soon else "delete a sandbox, or add a host"
            ),
            code="no_network_slot",
            retry_after_seconds=1.0 if soon else None,
        )

    def _keep_for_next(self, making: asyncio.Task[int]) -> None:
        if not making.cancelled() and making.exception() is None:
            self._ready.append(making.result())

    async def release(self, slot: Slot) -> None:
        """Give a slot back. It is removed in the background, then its number is free. Idempotent.

        Nothing of the VMM may run any more: whatever is inside is cut off.
        """
        if slot.number not in self._used:
            return
        self._used.discard(slot.number)
        self._going.add(slot.number)
        self._begin(self._remove_one(slot.number))

    async def restrict(self, slot: Slot, egress: Egress) -> None:
        """Let the guest of a slot reach ``egress`` and no more, from now on; flows beyond it end. A new slot is open.

        Raises:
            HostFailure: it could not be done; what was in force still is.
        """
        maker = self._maker
        if maker is None or slot.number not in self._used:
            raise HostFailure(f"network slot {slot.number} is not in use", code="network_failed")
        await namespace.in_thread(lambda: maker.restrict(slot.number, egress))

    async def settle(self) -> None:
        """Wait until all that was released is removed and as many slots are ready as are wanted."""
        while self._jobs or (self._keeper is not None and self._lacking()):
            jobs = list(self._jobs)
            if jobs:
                await asyncio.wait(jobs)
            else:
                await asyncio.sleep(0.005)

    async def close(self) -> None:
        """Remove the slots that nobody uses. Those in use stay: VMMs outlive the agent. Idempotent."""
        if self._maker is None:
            return
        maker, self._want_ready = self._maker, 0
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            self._keeper = None
        while self._jobs:
            await asyncio.wait(list(self._jobs))
        for number in self._ready:
            with contextlib.suppress(PlatformError):  # the next start removes what stays
                await self._in_kernel(maker.remove, number)
        self._ready.clear()
        self._free.clear()
        if not self._used:
            with contextlib.suppress(PlatformError):
                await namespace.in_thread(policy.remove_rules)
        maker.close()
        self._maker = None
        self._lock.release()

    def _begin(self, job: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(job)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)
        return task

    def _lacking(self) -> bool:
        return bool(self._free) and len(self._ready) + self._making < self._want_ready

    async def _keep_ready(self) -> None:
        """Make slots ahead for as long as the pool lives; ask a host that refuses again, ever less often."""
        pause, longest = RETRY_SECONDS
        while True:
            self._wake.clear()
            while self._lacking():
                making = self._begin_making()
                try:
                    number = await asyncio.shield(making)
                except asyncio.CancelledError:
                    making.add_done_callback(self._keep_for_next)
                    raise
                except PlatformError as error:
                    log.warning("network.slot_not_made", error=error.message)
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, longest)
                    continue
                pause = RETRY_SECONDS[0]
                self._ready.append(number)
            await self._wake.wait()

    def _begin_making(self) -> asyncio.Task[int]:
        # Taken here and not in the task, which runs later: two callers must not see the same number.
        number = self._free.popleft()
        self._making += 1
        return self._begin(self._make_one(number))

    async def _make_one(self, number: int) -> int:
        try:
            assert self._maker is not None  # noqa: S101  start() was called, or no number would be free
            await self._in_kernel(self._maker.make, number)
        except BaseException:
            self._free.append(number)
            raise
        finally:
            self._making -= 1
            self._wake.set()  # one that was made on demand leaves the store of ready ones as low as it was
        return number

    async def _remove_one(self, number: int) -> None:
        pause, longest = RETRY_SECONDS
        for _ in range(4):
            try:
                assert self._maker is not None  # noqa: S101  close() waits for every job
                await self._in_kernel(self._maker.remove, number)
            except HostFailure as error:
                log.warning("network.slot_not_removed", number=number, error=error.message)
                await asyncio.sleep(pause)
                pause = min(pause * 4, longest)
            else:
                self._going.discard(number)
                self._free.append(number)
                self._wake.set()
                return
        # The number stays out of use; the next start of the agent tries again.

    async def _in_kernel(self, action: Callable[[int], None], number: int) -> None:
        async with self._hands:
            await namespace.in_thread(lambda: action(number))
