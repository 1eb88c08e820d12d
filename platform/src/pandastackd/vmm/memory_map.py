"""Finding guest RAM in the address space of a VMM."""

from __future__ import annotations

from pathlib import Path

from pandastackd.errors import VmmFailed
from pandastackd.vmm.driver import MemoryMapping


def find_mapping(pid: int, memory: Path) -> MemoryMapping:
    """Where the whole of ``memory`` is mapped in ``pid``.

    Raises:
        VmmFailed: the process is gone, or does not map the file.
    """
    try:
        maps = Path(f"/proc/{pid}/maps").read_text()
        status = memory.stat()
    except OSError as error:
        raise VmmFailed(f"cannot look into the VMM's memory: {error.strerror}") from error
    found = parse_maps(maps, inode=status.st_ino, size=status.st_size)
    if found is None:
        raise VmmFailed(
            f"the VMM (pid {pid}) does not map {memory}; it was given another file, or is not ours"
        )
    return MemoryMapping(pid, found, status.st_size)


def parse_maps(maps: str, *, inode: int, size: int) -> int | None:
    """Start of the run of mappings that shows all ``size`` bytes of file ``inode``, from its first byte on.

    By inode and size and not by device: some file systems (btrfs) show another device here than ``stat``
    does. The kernel may have split the mapping where its flags differ.
    """
    start: int | None = None
    end = covered = 0
    for line in maps.splitlines():
        fields = line.split(None, 5)
        if len(fields) < 5 or int(fields[4]) != inode:
            continue
        low, high = (int(part, 16) for part in fields[0].split("-"))
        offset = int(fields[2], 16)
        if start is None or low != end or offset != covered:
            if offset != 0:
                start = None
                continue
            start, covered = low, 0
        end = high
        covered += high - low
        if covered >= size:
            return start
    return None
