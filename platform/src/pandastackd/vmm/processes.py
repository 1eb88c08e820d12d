"""Processes that are not our children: told apart from later users of the same pid, watched and killed
race-free.

A pid alone proves nothing after a restart; pid + start time + boot id do. A pidfd, once opened and checked,
stays with that very process whatever happens to the number.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from pandastackd.errors import VmmFailed


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process of this boot. ``start_time`` is field 22 of ``/proc/<pid>/stat``."""

    pid: int
    start_time: int


def boot_id() -> str:
    """Identifies the host's present boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> int | None:
    """Start time of a process in clock ticks after boot, ``None`` when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name may hold spaces and brackets: count from its end.
    return int(stat.rpartition(") ")[2].split(" ")[19])


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """What a process has used since it started, and what it holds."""

    pid: int
    uptime_seconds: float = 0.0
    cpu_seconds: float = 0.0
    rss_bytes: int = 0
    vsz_bytes: int = 0
    threads: int = 0


def process_usage(pid: int) -> ProcessUsage:
    """What a process uses.

    Raises:
        VmmFailed: there is no such process.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        raise VmmFailed(f"the process {pid} is gone") from None
    # Numbered as in proc(5); the first three, of which one is a name, are not looked at.
    fields = ["", "", "", *stat.rpartition(") ")[2].split(" ")]
    ticks = os.sysconf("SC_CLK_TCK")
    return ProcessUsage(
        pid=pid,
        uptime_seconds=max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[22]) / ticks),
        cpu_seconds=(int(fields[14]) + int(fields[15])) / ticks,
        rss_bytes=int(fields[24]) * os.sysconf("SC_PAGE_SIZE"),
        vsz_bytes=int(fields[23]),
        threads=int(fields[20]),
    )


class WatchedProcess:
    """An open handle on one process, tied to the event loop it was opened in. Close it."""

    def __init__(self, identity: ProcessIdentity, pidfd: int) -> None:
        self.identity = identity
        self._pidfd = pidfd
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pidfd, self._on_end)
        self._watching = True

    @classmethod
    def open(cls, identity: ProcessIdentity) -> WatchedProcess | None:
        """A handle, or ``None`` when that very process has ended."""
        try:
            pidfd = os.pidfd_open(identity.pid)
        except ProcessLookupError:
            return None
        # Checked after opening: from here on the handle cannot slip to another process.
        if start_time(identity.pid) != identity.start_time or _has_ended(pidfd):
            os.close(pidfd)
            return None
        return cls(identity, pidfd)

    def kill(self) -> None:
        """Send SIGKILL; no effect on one that has ended."""
        if not self._ended.is_set() and self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            except ProcessLookupError:
                return

    async def wait(self) -> None:
        """Wait until it has ended. Any number of callers."""
        await self._ended.wait()

    @property
    def ended(self) -> bool:
        """Whether it is known to have ended."""
        return self._ended.is_set() or (self._pidfd >= 0 and _has_ended(self._pidfd))

    def close(self) -> None:
        """Let go of the handle; the process lives on. Idempotent."""
        self._unwatch()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _on_end(self) -> None:
        self._ended.set()
        self._unwatch()

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            if not self._loop.is_closed():
                self._loop.remove_reader(self._pidfd)


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
