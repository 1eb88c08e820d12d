"""Free space: how much there really is, admission against it, and one typed error for running out of it.

Where the data lies in a sparse image, the image's own free space is a promise of the file system outside;
the smaller of both is what can still be written.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from pandastackd.errors import InsufficientStorage

MIB = 1024 * 1024
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def free_mib(*places: Path) -> int:
    """MiB that can still be written: the smallest free space of the file systems that ``places`` lie on.

    A place that does not exist yet stands for its nearest existing ancestor.
    """
    return min(_free_bytes(place) for place in places) // MIB


class Storage(Protocol):
    """Somewhere with free space: a data directory, or a stand-in for one."""

    def free_mib(self) -> int:
        """MiB that can still be written."""


def require_free(storage: Storage, needed_mib: int, *, reserve_mib: int, what: str = "do this") -> None:
    """Refuse ``what`` unless ``needed_mib`` fit and ``reserve_mib`` stay free afterwards.

    This looks and does not reserve: a caller that admits several things at once counts its own promises.

    Raises:
        InsufficientStorage: names what would be needed and what is there.
    """
    free = storage.free_mib()
    if free < needed_mib + reserve_mib:
        raise InsufficientStorage(
            f"not enough disk space to {what}: {needed_mib} MiB are needed and {reserve_mib} MiB are kept in"
            f" reserve, but only {free} MiB are free; delete something or use a larger disk"
        )


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Turn "no space left" of any kind inside the block into one typed error.

    Raises:
        InsufficientStorage: the block ran out of disk space or quota while it was doing ``what``.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise InsufficientStorage(
                f"cannot {what}: the disk is full ({error.strerror}); delete something or use a larger disk"
            ) from error
        raise


def _free_bytes(place: Path) -> int:
    found = place.absolute()
    while not found.exists() and found != found.parent:
        found = found.parent
    usage = os.statvfs(found)
    return usage.f_bavail * usage.f_frsize
