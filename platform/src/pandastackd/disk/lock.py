"""One server per data directory: a lock that the kernel drops when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from pandastackd.errors import Conflict


class DirectoryLock:
    """An exclusive lock on a data directory, held from :meth:`acquire` to :meth:`release`.

    The descriptor is close-on-exec, so neither a VMM nor any other child keeps the lock alive.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._fd is not None

    def acquire(self) -> None:
        """Take the lock and write our pid into it; doing so twice is once.

        Raises:
            Conflict: (``data_dir_in_use``) another process holds it; the message names its pid.
        """
        while self._fd is None:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                self._lock(fd)
                if _is_still(fd, self._path):
                    os.ftruncate(fd, 0)
                    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
                    self._fd = fd
            finally:
                if self._fd is None:
                    os.close(fd)

    def release(self) -> None:
        """Drop the lock; idempotent. The file stays, since removing it would race with the next holder."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _lock(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
            raise Conflict(
                f"data directory {self._path.parent} is in use by another pandastackd (pid {holder});"
                " stop that one first, or give this one a --data-dir of its own",
                code="data_dir_in_use",
            ) from None


def _is_still(fd: int, path: Path) -> bool:
    """Whether ``path`` still names the file we locked: a failed first start removes its lock file."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
