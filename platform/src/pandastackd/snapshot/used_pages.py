"""What a captured machine used of its memory file: what a machine that starts from it will ask for first.

A clone shares its blocks with the file it was cloned from, but not what the host has of that file in memory. Read ahead
while a VMM starts, these pages are there when the guest wants them; one by one it would wait for the disk at each. The
list is a hint: a snapshot without it is whole.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

USED = "used"
"""Name of the list beside the memory; written by the memory tool, see ``crates/memory/src/used.rs``."""


def read_ahead(memory: Path) -> int:
    """Have the kernel begin to read the pages of ``memory`` that the list beside it names.

    Returns:
        How many bytes were asked for: 0 where there is no list, or none that can be read.
    """
    asked = 0
    # Nothing but time depends on it.
    with suppress(OSError, ValueError, TypeError, OverflowError):
        runs = json.loads((memory.parent / USED).read_bytes())
        fd = os.open(memory, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            for offset, length in runs:
                os.posix_fadvise(fd, offset, length, os.POSIX_FADV_WILLNEED)
                asked += length
        finally:
            os.close(fd)
    return asked
