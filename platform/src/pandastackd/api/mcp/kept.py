"""Text that has no end, in a place that has: the beginning and the end are kept, and the note says what is not.

A model pays for every character that it reads, and a command may print for ever.
"""

from __future__ import annotations


class Kept:
    """The first and the last bytes of a stream, at most ``limit`` in all."""

    def __init__(self, limit: int) -> None:
        self._half = limit // 2
        self._head = bytearray()
        self._tail = bytearray()
        self._total = 0

    def feed(self, data: bytes) -> None:
        """Take what came next."""
        self._total += len(data)
        room = self._half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data[-self._half :]
        del self._tail[: -self._half]

    @property
    def left_out(self) -> int:
        """How many bytes are not kept."""
        return self._total - len(self._head) - len(self._tail)

    def text(self) -> str:
        """What is kept, as text; the gap, if there is one, is said in its place."""
        if not self.left_out:
            return (self._head + self._tail).decode("utf-8", "replace")
        # Characters that the gap cuts in two are no news.
        head, tail = self._head.decode("utf-8", "ignore"), self._tail.decode("utf-8", "ignore")
        return f"{head}\n[... {self.left_out} bytes left out ...]\n{tail}"
