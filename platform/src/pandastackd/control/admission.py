"""Whether a host can take one more sandbox, asked before anything is made.

The host's agent has the last word, since only it sees all promises at one instant. Asking here first keeps
a refused create free of rows and lets the answer say what would be needed.
"""

from __future__ import annotations

import math

from pandastackd.config import Settings
from pandastackd.domain import HostCapacity
from pandastackd.errors import InsufficientStorage, NoCapacity

DISK_MIB = 64
"""Least free space for one more sandbox: a clone shares its template's blocks and grows only by what it
writes.
"""

RETRY_SLOTS_SECONDS = 5.0


def admit(capacity: HostCapacity, memory_mib: int, settings: Settings) -> None:
    """Return when the host has room for a guest of ``memory_mib``.

    Raises:
        NoCapacity: every network slot is in use.
        InsufficientStorage: memory or disk is short; says what is needed and what is free.
    """
    if capacity.slots_used >= capacity.slots_total:
        raise NoCapacity(
            f"no compute capacity available: all {capacity.slots_total} network slots are in use; try again",
            retry_after_seconds=RETRY_SLOTS_SECONDS,
        )
    needed = capacity.cost_mib(memory_mib)
    if needed > capacity.memory_free_mib:
        raise InsufficientStorage(
            f"insufficient host memory for sandbox: needs {math.ceil(needed)} MiB,"
            f" {capacity.memory_free_mib} MiB free (of {capacity.memory_total_mib},"
            f" {settings.memory_reserve_mib} kept in reserve);"
            " delete or hibernate a sandbox, or add memory",
            code="insufficient_memory",
        )
    disk_free = capacity.disk_free_mib - settings.disk_reserve_mib
    if disk_free < DISK_MIB:
        raise InsufficientStorage(
            f"insufficient host disk for sandbox: needs {DISK_MIB} MiB, {max(0, disk_free)} MiB free"
            f" ({settings.disk_reserve_mib} kept in reserve); delete sandboxes or snapshots, or add disk",
            code="insufficient_disk",
        )
