"""A command's output: small in memory, large in an unnamed file, sent as JSON without ever being whole in
memory.
"""

from __future__ import annotations

import asyncio
import codecs
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Self

from pandastackd.errors import TooLarge

IN_MEMORY = 1024 * 1024
LIMIT = 1024 * 1024 * 1024
"""Most output of one command, in bytes, both streams together."""

PIECE = 256 * 1024


class Spool:
    """Where both streams of one command go.

    Args:
        directory: where a file is made when memory is not enough. It has no name, so nothing can be left
        behind.
    """

    def __init__(self, directory: Path, *, in_memory: int = IN_MEMORY, limit: int = LIMIT) -> None:
        self._in_memory = in_memory
        self._limit = limit
        self._files = {
            # Rolled over by hand, so that the loop is never held up by a disk.
            name: SpooledTemporaryFile(max_size=0, dir=str(directory))  # noqa: SIM115 - __exit__ closes
            for name in ("stdout", "stderr")
        }
        self._sizes = dict.fromkeys(self._files, 0)
        self._on_disk: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for file in self._files.values():
            file.close()

    async def write(self, stream: str, data: bytes) -> None:
        """Keep a piece.

        Raises:
            TooLarge: the limit is passed.
        """
        name = "stderr" if stream == "stderr" else "stdout"
        file = self._files[name]
        if sum(self._sizes.values()) + len(data) > self._limit:
            raise TooLarge(
                f"the command printed more than {self._limit} bytes and was killed;"
                " write large output to a file and download that, or use exec/stream"
            )
        self._sizes[name] += len(data)
        if name not in self._on_disk and self._sizes[name] > self._in_memory:
            self._on_disk.add(name)
            await asyncio.to_thread(file.rollover)
        if name in self._on_disk:
            await asyncio.to_thread(file.write, data)
        else:
            file.write(data)

    @property
    def is_small(self) -> bool:
        """Whether all of it is in memory."""
        return not self._on_disk

    def text(self, stream: str) -> str:
        """All of one small stream."""
        file = self._files[stream]
        file.seek(0)
        return file.read().decode("utf-8", "replace")

    async def json_string(self, stream: str) -> AsyncGenerator[bytes]:
        """One stream as the inside of a JSON string, piece by piece."""
        file = self._files[stream]
        await asyncio.to_thread(file.seek, 0)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while data := await asyncio.to_thread(file.read, PIECE):
            yield await asyncio.to_thread(_escaped, decoder.decode(data))
        yield _escaped(decoder.decode(b"", final=True))


def _escaped(text: str) -> bytes:
    return json.dumps(text)[1:-1].encode("ascii")
