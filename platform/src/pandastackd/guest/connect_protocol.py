"""Connect's streaming frames with JSON, both ways, as pure functions of bytes. No I/O.

A frame is one flag byte, a big-endian 32-bit length and that many bytes of JSON. Flag bit 2 marks the last
frame, which carries either ``{}`` or an error. Nothing here trusts the sender: a frame has a largest size,
JSON must be an object, and whatever does not fit is one clear error.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pandastackd.errors import PlatformError
from pandastackd.guest.faults import nonsense, refused

MAX_FRAME = 4 * 1024 * 1024
"""Bytes; the agent sends output in far smaller pieces."""

END_STREAM = 0x02
_COMPRESSED = 0x01
_HEADER = struct.Struct(">BI")

STREAM_CONTENT_TYPE = b"application/connect+json"
UNARY_CONTENT_TYPE = b"application/json"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Frame:
    """One received frame; ``last`` is the end of the stream."""

    message: Json
    last: bool


def encode_frame(message: Json) -> bytes:
    """``message`` as one frame."""
    body = encode_json(message)
    return _HEADER.pack(0, len(body)) + body


def encode_json(message: Json) -> bytes:
    """Compact JSON bytes."""
    return json.dumps(message, separators=(",", ":")).encode()


def decode_json(body: bytes | bytearray | memoryview) -> Json:
    """``body`` as a JSON object.

    Raises:
        HostFailure: it is not JSON, not an object, or nested without end.
    """
    try:
        value = json.loads(bytes(body))
    except (ValueError, RecursionError):
        raise nonsense("a message is not JSON") from None
    if not isinstance(value, dict):
        raise nonsense("a message is not a JSON object")
    return value


class FrameDecoder:
    """Cuts a byte stream into frames; holds at most one unfinished frame."""

    def __init__(self, max_frame: int = MAX_FRAME) -> None:
        self._max_frame = max_frame
        self._buffer = bytearray()
        self._ended = False

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that ``data`` completes.

        Raises:
            HostFailure: a frame is too large, compressed, or follows the last one.
        """
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            flags, length = _HEADER.unpack_from(self._buffer)
            if length > self._max_frame:
                raise nonsense(f"a frame of {length} bytes, more than the {self._max_frame} allowed")
            if flags & _COMPRESSED or self._ended:
                raise nonsense("a compressed frame" if flags & _COMPRESSED else "a frame after the last one")
            end = _HEADER.size + length
            if len(self._buffer) < end:
                return
            body = bytes(memoryview(self._buffer)[_HEADER.size : end])
            del self._buffer[:end]
            self._ended = bool(flags & END_STREAM)
            yield Frame(decode_json(body) if body else {}, self._ended)

    def finish(self) -> None:
        """To be called at the end of the byte stream.

        Raises:
            HostFailure: the stream stopped inside a frame or before its last one.
        """
        if self._buffer or not self._ended:
            raise nonsense("the stream stopped before its end")


def stream_error(what: str, message: Json) -> PlatformError | None:
    """The error that a last frame carries, or ``None`` for a clean end."""
    error = message.get("error")
    if error is None:
        return None
    if not isinstance(error, dict):
        raise nonsense("a stream ended with an error that is not an object")
    return refused(what, code=text(error, "code"), message=text(error, "message"))


def text(message: Json, key: str) -> str:
    """A string field; absent is empty.

    Raises:
        HostFailure: it is something else.
    """
    value = message.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise nonsense(f"field {key} is not a string")
    return value


def integer(message: Json, key: str, *, low: int = 0, high: int = 2**63 - 1) -> int:
    """An integer field, plain or as the string that protobuf's JSON uses for 64 bits; absent is 0.

    Raises:
        HostFailure: it is something else or out of range.
    """
    value = message.get(key, 0)
    if isinstance(value, str) and len(value) <= 20:
        try:
            value = int(value)
        except ValueError:
            raise nonsense(f"field {key} is not a number") from None
    if isinstance(value, bool) or not isinstance(value, int):
        raise nonsense(f"field {key} is not a number")
    if not low <= value <= high:
        raise nonsense(f"field {key} is out of range")
    return value


def table(message: Json, key: str) -> Json:
    """An object field; absent is empty.

    Raises:
        HostFailure: it is something else.
    """
    value = message.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise nonsense(f"field {key} is not an object")
    return value


def rows(message: Json, key: str) -> list[Json]:
    """A field that is a list of objects; absent is empty.

    Raises:
        HostFailure: it is something else.
    """
    value = message.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise nonsense(f"field {key} is not a list of objects")
    return value


def texts(message: Json, key: str) -> tuple[str, ...]:
    """A field that is a list of strings; absent is empty.

    Raises:
        HostFailure: it is something else.
    """
    value = message.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise nonsense(f"field {key} is not a list of strings")
    return tuple(value)


def encode_bytes(data: bytes) -> str:
    """``data`` as protobuf's JSON spells bytes."""
    return base64.b64encode(data).decode("ascii")


def decode_bytes(value: object) -> bytes:
    """The bytes that protobuf's JSON spells as ``value``.

    Raises:
        HostFailure: it is not base64.
    """
    if not isinstance(value, str):
        raise nonsense("bytes are not a string")
    try:
        return binascii.a2b_base64(value, strict_mode=True) if value else b""
    except (binascii.Error, ValueError):
        raise nonsense("bytes are not base64") from None
