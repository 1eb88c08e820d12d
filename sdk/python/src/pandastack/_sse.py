"""Server-sent events out of a byte stream. Pure: bytes in, events out.

Lines are cut before they are decoded, so neither a chunk border inside a character nor an unusual line
separator inside the data can spoil an event.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

MAX_EVENT_BYTES = 64 * 1024 * 1024


class SseError(ValueError):
    """The stream is not one of server-sent events that this side is willing to hold in memory."""


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One event: its type (``message`` when unnamed) and its data, lines joined by LF."""

    event: str
    data: str


@dataclass(slots=True)
class SseDecoder:
    """Collects bytes and yields the events they complete. An event the stream ends within is dropped."""

    _partial: bytearray = field(default_factory=bytearray)
    _event: str = ""
    _data: list[str] = field(default_factory=list)
    _size: int = 0
    _skip_lf: bool = False

    def feed(self, chunk: bytes) -> Iterator[SseEvent]:
        """The events that ``chunk`` completes.

        Raises:
            SseError: one event grew past ``MAX_EVENT_BYTES``.
        """
        for line in self._lines(chunk):
            event = self._line(line)
            if event is not None:
                yield event

    def _lines(self, chunk: bytes) -> Iterator[bytes]:
        if self._skip_lf and chunk:  # the LF of a CRLF that fell into two chunks
            chunk = chunk.removeprefix(b"\n")
            self._skip_lf = False
        self._skip_lf = chunk.endswith(b"\r")
        pieces = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for piece in pieces[:-1]:
            yield bytes(self._partial) + piece
            self._partial.clear()
        self._partial += pieces[-1]
        if len(self._partial) > MAX_EVENT_BYTES:
            raise SseError(f"an event of the stream is larger than {MAX_EVENT_BYTES} bytes")

    def _line(self, line: bytes) -> SseEvent | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        text = value.removeprefix(b" ").decode("utf-8", "replace")
        if name == b"event":
            self._event = text
        elif name == b"data":
            self._data.append(text)
            self._size += len(value)
            if self._size > MAX_EVENT_BYTES:
                raise SseError(f"an event of the stream is larger than {MAX_EVENT_BYTES} bytes")
        return None  # comments (keep-alives), ids and fields we do not know

    def _dispatch(self) -> SseEvent | None:
        event, data = self._event, self._data
        self._event, self._data, self._size = "", [], 0
        if not data:
            return None
        return SseEvent(event or "message", "\n".join(data))
