"""Server-sent events as the published clients read them: LF only, a charset, JSON escaped to ASCII."""

from __future__ import annotations

import base64
import codecs
import json
from typing import Any

from pandastackd.api.streaming import Pump, Streamed
from pandastackd.errors import PlatformError

PING = b": ping\n\n"
OPENED = b": open\n\n"
"""Sent first, as a comment: an event with data would be printed by clients that follow logs."""


def event(data: dict[str, Any], name: str | None = None) -> bytes:
    """One event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data)}\n\n".encode("ascii")


def failure(error: PlatformError) -> dict[str, str]:
    """The data of an ``error`` event."""
    # Clients recognise a timeout in a stream by this word.
    word = "timeout: " if error.http_status == 504 else ""
    return {"error": f"{word}{error.message}", "code": error.code}


def event_stream(pump: Pump[bytes]) -> Streamed:
    """The answer that carries events; a comment keeps it alive through proxies with an idle timeout."""
    return Streamed(
        pump,
        media_type="text/event-stream; charset=utf-8",
        headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        ping=PING,
    )


class Texts:
    """Turns the byte pieces of two streams into events' data; a character cut by a border waits for its rest.

    Bytes that are not UTF-8 have no faithful text: then the exact bytes stand beside it, as ``base64``.
    """

    def __init__(self) -> None:
        self._decoders = {
            name: codecs.getincrementaldecoder("utf-8")("replace") for name in ("stdout", "stderr")
        }

    def feed(self, stream: str, data: bytes, *, final: bool = False) -> dict[str, str] | None:
        """The data that ``data`` completes; ``None`` when that is nothing yet."""
        decoder = self._decoders[stream]
        held = decoder.getstate()[0] + data
        text = decoder.decode(data, final=final)
        exact = held[: len(held) - len(decoder.getstate()[0])]
        if not exact:
            return None
        if text.encode() == exact:
            return {"chunk": text}
        return {"chunk": text, "base64": base64.b64encode(exact).decode("ascii")}

    def rest(self, stream: str) -> dict[str, str] | None:
        """What is left of a cut character at the end."""
        return self.feed(stream, b"", final=True)
