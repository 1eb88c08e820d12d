"""What sandboxes use, looked at now and then and kept for a while: the host samples, whoever asks gets the past too.

A running guest is asked once every interval, which costs it a moment of one processor; one that sleeps is left alone,
and its past is kept. Nothing is written down: an agent that restarts begins anew.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final

import structlog

from pandastackd.agent.sandbox import Sandbox
from pandastackd.domain import MachineUsage
from pandastackd.errors import PlatformError
from pandastackd.guest.types import Usage
from pandastackd.lifecycle import State
from pandastackd.vmm.processes import ProcessUsage, process_usage

log = structlog.get_logger(__name__)

KEPT: Final = 240
"""Points of each sandbox: an hour of them at the default interval."""
AT_ONCE: Final = 8
PATIENCE_SECONDS: Final = 5.0
SHORTEST_LOOK_SECONDS: Final = 1.0
"""Processor time is counted in hundredths of a second: a share of less time than this would say little."""


class Sampler:
    """Samples the sandboxes of one host.

    Args:
        sandboxes: those there are; looked at anew in every round.
        interval_seconds: from one round to the next; 0 is never.
    """

    def __init__(self, sandboxes: Mapping[str, Sandbox], interval_seconds: float) -> None:
        self._sandboxes = sandboxes
        self._interval = interval_seconds
        self._past: dict[str, deque[Usage]] = {}
        self._processes: dict[str, ProcessUsage] = {}
        self._rounds: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin the rounds."""
        if self._interval > 0:
            self._rounds = asyncio.create_task(self._run(), name="sampling")

    async def close(self) -> None:
        """End the rounds. Idempotent."""
        if self._rounds is not None:
            self._rounds.cancel()
            await asyncio.wait([self._rounds])
            self._rounds = None

    async def history(self, sandbox: Sandbox) -> list[Usage]:
        """The points that are kept, oldest first, and one of now if it runs and answers."""
        past = list(self._past.get(sandbox.id, ()))
        now = await self._look(sandbox)
        return past if now is None else [*past, now]

    def machine(self, sandbox: Sandbox) -> MachineUsage:
        """What its VMM takes of the host just now; its processor share is since a former look.

        Raises:
            Conflict: it has no machine.
        """
        pid = sandbox.machine().pid
        now = process_usage(pid)
        before = self._processes.get(sandbox.id)
        if before is None or before.pid != pid:
            before = ProcessUsage(pid)  # since it started, then
            self._processes[sandbox.id] = now
        passed = now.uptime_seconds - before.uptime_seconds
        if passed >= SHORTEST_LOOK_SECONDS:
            self._processes[sandbox.id] = now
        return MachineUsage(
            pid=pid,
            uptime_seconds=round(now.uptime_seconds, 2),
            cpu_percent=round((now.cpu_seconds - before.cpu_seconds) / max(passed, 0.01) * 100, 2),
            rss_bytes=now.rss_bytes,
            vsz_bytes=now.vsz_bytes,
            threads=now.threads,
        )

    async def round(self) -> None:
        """Ask every running guest once, and forget what is gone."""
        for past in (self._past, self._processes):
            for gone in past.keys() - self._sandboxes.keys():
                del past[gone]
        gate = asyncio.Semaphore(AT_ONCE)

        async def sample(sandbox: Sandbox) -> None:
            async with gate:
                point = await self._look(sandbox)
            # It may have been deleted meanwhile.
            if point is not None and sandbox.id in self._sandboxes:
                self._past.setdefault(sandbox.id, deque(maxlen=KEPT)).append(point)

        await asyncio.gather(*(sample(sandbox) for sandbox in list(self._sandboxes.values())))

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self.round()
            except Exception:  # the next round is another chance
                log.exception("sampling.failed")

    @staticmethod
    async def _look(sandbox: Sandbox) -> Usage | None:
        if sandbox.record.state is not State.RUNNING:
            return None
        with suppress(PlatformError, TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                usage = await sandbox.guest().usage()
            # By the host's clock: points must be in order whatever a guest believes the time to be.
            return replace(usage, time=int(time.time()))
        return None
