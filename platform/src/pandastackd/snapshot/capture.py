"""One instant of a running machine: held still, paused, captured, always resumed.

All that can be done before the pause is done before it (the clone of the base memory, the flush of the disk
file, the start of the memory tool), and all that can be done after it after it (making it durable,
publishing). In between lie the device state, the pages written, and the clone of the disk, so that the
three are of one instant. The workload is held still in the guest around all of it: a copy's
processes go on only once the copy has been told who it is.

A machine restored from a snapshot maps that snapshot's memory privately, so its memory is *the base file
plus the pages it wrote*; each capture starts from the base of the machine itself, and a long line of forks
costs no more than a short one.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from pandastackd.disk.reflink import clone
from pandastackd.disk.space import storage_errors
from pandastackd.errors import PlatformError
from pandastackd.snapshot.manifest import DISK, MEMORY, STATE
from pandastackd.snapshot.memory import ArmedCapture, MemoryReport, MemoryTool
from pandastackd.snapshot.unstoppable import in_thread, to_the_end
from pandastackd.snapshot.used_pages import USED
from pandastackd.vmm.driver import Vmm

S = TypeVar("S")
T = TypeVar("T")


class Workload(Protocol):
    """The processes of a running guest."""

    async def hold(self) -> None:
        """Hold them still."""

    async def release(self) -> None:
        """Let them go on."""


@dataclass(frozen=True, slots=True)
class CaptureTiming:
    """How long a capture took, in milliseconds.

    Attributes:
        prepare_ms: before the pause.
        pause_ms: from asking the guest to hold still until it went on; what its users feel.
        hold_ms, state_ms, memory_ms, disk_ms: inside the pause; memory and disk overlap.
        memory: what the memory path found.
    """

    prepare_ms: float = 0.0
    pause_ms: float = 0.0
    hold_ms: float = 0.0
    state_ms: float = 0.0
    memory_ms: float = 0.0
    disk_ms: float = 0.0
    memory: MemoryReport = field(default_factory=MemoryReport)


async def capture(
    vmm: Vmm,
    *,
    disk: Path,
    base_memory: Path,
    draft: Path,
    tool: MemoryTool,
    workload: Workload | None = None,
    memory_shared: bool = False,
    keep_paused: bool = False,
) -> CaptureTiming:
    """Write ``memory``, ``state`` and ``disk`` of this instant into ``draft``, and what the machine uses of its memory.

    The caller has the guest flush its file systems first, and publishes or drops the draft afterwards. The
    machine runs again when this returns or raises, also when it is cancelled; except with ``keep_paused``,
    where a *successful* capture leaves it paused (for a hibernation, or a machine that was paused already).

    Args:
        base_memory: the file that the VMM maps.
        workload: what to hold still meanwhile; ``None`` for a machine that is paused already.
        memory_shared: it maps it shared, so the file is the memory (while a template is baked).

    Raises:
        VmmFailed: the VMM died or refused; also when it would not run again.
        InsufficientStorage: the disk is full.
        HostFailure: the memory could not be read wholly, or the file system cannot clone.
    """
    begin = time.perf_counter()
    async with AsyncExitStack() as stack:
        armed: ArmedCapture | None = None
        if not memory_shared:
            await in_thread(clone, base_memory, draft / MEMORY)
            armed = await stack.enter_async_context(
                tool.armed(vmm.memory_mapping(), draft / MEMORY, used=draft / USED)
            )
        # A clone waits for the source's dirty pages; most of them can be written while the guest still runs.
        await in_thread(_flush, disk)
        if memory_shared:
            await in_thread(_flush, base_memory)
        prepared = time.perf_counter()

        done, hold_ms = False, 0.0
        try:
            if workload is not None:
                _, hold_ms = await _timed(workload.hold())
            await vmm.pause()
            _, state_ms = await _timed(vmm.save_device_state(draft / STATE))
            (memory, memory_ms), (_, disk_ms) = await _both(
                _timed(_memory(armed, base_memory, draft)),
                _timed(in_thread(clone, disk, draft / DISK)),
            )
            done = True
        finally:
            if not (done and keep_paused):
                await to_the_end(go_on(vmm, workload))
        resumed = time.perf_counter()
    return CaptureTiming(
        prepare_ms=_ms(begin, prepared),
        pause_ms=_ms(prepared, resumed),
        hold_ms=hold_ms,
        state_ms=state_ms,
        memory_ms=memory_ms,
        disk_ms=disk_ms,
        memory=memory,
    )


async def go_on(vmm: Vmm, workload: Workload | None) -> None:
    """Let a machine and its workload go on.

    Raises:
        VmmFailed: the machine would not run again.
    """
    await vmm.resume()
    if workload is not None:
        # A guest that cannot be told lets its processes go by itself after a while.
        with suppress(PlatformError):
            await workload.release()


async def _memory(armed: ArmedCapture | None, base_memory: Path, draft: Path) -> MemoryReport:
    if armed is not None:
        return await armed.fire()
    await in_thread(clone, base_memory, draft / MEMORY)
    return MemoryReport()


async def _both(first: Awaitable[S], second: Awaitable[T]) -> tuple[S, T]:
    """Both results. When one fails the other is still waited for: it must not read once the machine runs again."""
    one, two = await asyncio.gather(first, second, return_exceptions=True)
    if isinstance(one, BaseException):
        raise one
    if isinstance(two, BaseException):
        raise two
    return one, two


async def _timed(work: Awaitable[T]) -> tuple[T, float]:
    begin = time.perf_counter()
    result = await work
    return result, _ms(begin, time.perf_counter())


def _flush(path: Path) -> None:
    with storage_errors(f"flush {path.name}"):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)


def _ms(begin: float, end: float) -> float:
    return (end - begin) * 1000
