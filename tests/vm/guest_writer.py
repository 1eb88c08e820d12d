"""Runs in the guest: writes a keyed pattern into memory and files without end, and knows every byte of it.

    python3 guest_writer.py KEY MEMORY_MIB SHM_MIB FOLDER

Memory is a ``bytearray``, the others are a file in /dev/shm and two on the disk: one that is written over, one
that only grows. Page ``i`` in its version ``v`` holds (key, place, i, v) again and again; all places are written
round and round, so a page that a capture missed shows as an older version, and one that it took later as a
newer one. A file ``FOLDER/ask`` makes it stop, compare every byte, write ``FOLDER/answer`` and go on.
"""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PAGE = 4096
CELL = struct.Struct("<QQQQ")
AT_ONCE = 64
BLOCKS = 1024
MEMORY, SHARED, BLOCK_FILE, GROWING = range(4)


class Ring:
    """Pages that are written one after the other, and again from the start with the next version."""

    def __init__(
        self, pages: int, page: Callable[[int, int], bytes], put: Callable[[int, bytes], object]
    ) -> None:
        self.pages, self.page, self.put = pages, page, put
        self.version, self.next = 1, 0

    def write(self) -> None:
        """Write one page."""
        self.put(self.next, self.page(self.next, self.version))
        self.next += 1
        if self.next == self.pages:
            self.version, self.next = self.version + 1, 0

    def wrong(self, get: Callable[[int], bytes]) -> list[str]:
        """The pages that are not as they were written."""
        return [
            f"page {i} is {CELL.unpack_from(get(i))}, not version {version}"
            for i in range(self.pages)
            if get(i) != self.page(i, version := self.version if i < self.next else self.version - 1)
        ]


def main(key: int, memory_mib: int, shared_mib: int, folder: Path) -> None:
    """Fill, tell ``FOLDER/ready``, and write until killed."""

    def pages_of(place: int) -> Callable[[int, int], bytes]:
        return lambda i, version: CELL.pack(key, place, i, version) * (PAGE // CELL.size)

    def into(buffer: bytearray | mmap.mmap) -> Callable[[int, bytes], object]:
        return lambda i, data: buffer.__setitem__(slice(i * PAGE, i * PAGE + PAGE), data)

    def out_of(buffer: bytearray | mmap.mmap) -> Callable[[int], bytes]:
        return lambda i: bytes(buffer[i * PAGE : i * PAGE + PAGE])

    folder.mkdir(parents=True)
    memory = bytearray(memory_mib << 20)
    with Path("/dev/shm/pattern").open("w+b") as file:
        file.truncate(shared_mib << 20)
        shared = mmap.mmap(file.fileno(), 0)
    blocks = os.open(folder / "blocks", os.O_RDWR | os.O_CREAT)
    growing = os.open(folder / "growing", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    grown = 0
    page_of_growing = pages_of(GROWING)

    rings = [
        (Ring(len(memory) // PAGE, pages_of(MEMORY), into(memory)), out_of(memory)),
        (Ring(len(shared) // PAGE, pages_of(SHARED), into(shared)), out_of(shared)),
        (
            Ring(BLOCKS, pages_of(BLOCK_FILE), lambda i, data: os.pwrite(blocks, data, i * PAGE)),
            lambda i: os.pread(blocks, PAGE, i * PAGE),
        ),
    ]
    for ring, _ in rings:
        for _ in range(ring.pages):
            ring.write()
    (folder / "ready").touch()

    ask, answer = folder / "ask", folder / "answer"
    while True:
        for _ in range(AT_ONCE):
            for ring, _ in rings:
                ring.write()
        os.write(growing, page_of_growing(grown, 0))
        grown += 1
        if grown % 16 == 0:
            os.fdatasync(growing)
        if ask.exists():
            ask.unlink()
            # What is read back is what is on the disk, not what is cached of it.
            os.sync()
            subprocess.run(["sudo", "sh", "-c", "echo 3 > /proc/sys/vm/drop_caches"], check=True)
            wrong = [
                f"{place}: {line}" for place, (ring, get) in enumerate(rings) for line in ring.wrong(get)
            ]
            if os.fstat(growing).st_size != grown * PAGE:
                wrong.append(f"the growing file has {os.fstat(growing).st_size} bytes, not {grown * PAGE}")
            wrong += [
                f"growing: page {i}"
                for i in range(grown)
                if os.pread(growing, PAGE, i * PAGE) != page_of_growing(i, 0)
            ]
            rounds = ",".join(str(ring.version) for ring, _ in rings)
            told = "\n".join(wrong[:20]) if wrong else f"intact rounds={rounds} grown={grown}"
            answer.with_suffix(".new").write_text(told)
            answer.with_suffix(".new").rename(answer)
        time.sleep(0.002)


if __name__ == "__main__":
    main(int(sys.argv[1], 16), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
