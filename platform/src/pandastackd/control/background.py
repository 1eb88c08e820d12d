"""Work that outlives the call that began it: owned, logged, and ended at shutdown."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import structlog

log = structlog.get_logger(__name__)

T = TypeVar("T")


class Background:
    """A set of running tasks.

    *Jobs* are finished at shutdown, as far as time allows; *loops* are cut off.
    """

    def __init__(self) -> None:
        self._jobs: set[asyncio.Task[Any]] = set()
        self._loops: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Run ``work`` to its end, whether or not anybody still waits for it."""
        task = asyncio.create_task(work, name=name)
        self._jobs.add(task)
        task.add_done_callback(self._finished)
        return task

    def repeat(self, step: Callable[[], Awaitable[None]], *, name: str, pause_seconds: float) -> None:
        """Run ``step`` again and again. A step that fails is logged and tried again after a pause."""
        self._loops.add(asyncio.create_task(_repeat(step, name, pause_seconds), name=name))

    async def settle(self) -> None:
        """Wait until no job is left."""
        while self._jobs:
            await asyncio.wait(self._jobs)

    async def close(self, *, timeout_seconds: float) -> None:
        """End the loops, then give the jobs ``timeout_seconds`` to finish before they are cancelled."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        self._loops.clear()
        if not self._jobs:
            return
        _, late = await asyncio.wait(self._jobs, timeout=timeout_seconds)
        for job in late:
            job.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._jobs.discard(task)
        # Retrieved here so that a job nobody waits for any more does not fail in silence.
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("background.failed", job=task.get_name(), error=str(error))


async def _repeat(step: Callable[[], Awaitable[None]], name: str, pause_seconds: float) -> None:
    while True:
        try:
            await step()
        except Exception as error:
            log.error("loop.failed", loop=name, error=str(error), exc_info=True)
            await asyncio.sleep(max(pause_seconds, 1.0))
        else:
            await asyncio.sleep(pause_seconds)
