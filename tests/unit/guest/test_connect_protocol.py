"""Frames: whatever is cut wherever comes out whole, and whatever is too much or malformed is one clear
error."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pandastackd.errors import HostFailure, NotFound
from pandastackd.guest.connect_protocol import (
    FrameDecoder,
    decode_bytes,
    decode_json,
    encode_bytes,
    encode_frame,
    integer,
    stream_error,
    text,
)

LAST = b"\x02\x00\x00\x00\x02{}"


@given(
    st.lists(st.dictionaries(st.text(max_size=8), st.text(max_size=40), max_size=4), max_size=6), st.data()
)
def test_frames_survive_any_cutting(messages: list[dict[str, str]], data: st.DataObject) -> None:
    stream = b"".join(encode_frame(message) for message in messages) + LAST
    decoder, seen, position = FrameDecoder(), [], 0
    while position < len(stream):
        size = data.draw(st.integers(1, len(stream) - position))
        seen += list(decoder.feed(stream[position : position + size]))
        position += size
    decoder.finish()
    assert [frame.message for frame in seen] == [*messages, {}]
    assert [frame.last for frame in seen] == [False] * len(messages) + [True]


@given(st.binary(max_size=64))
def test_garbage_is_refused_or_waited_for_never_a_crash(garbage: bytes) -> None:
    decoder = FrameDecoder(max_frame=1024)
    with suppress(HostFailure):
        list(decoder.feed(garbage))
        decoder.finish()


def test_a_huge_frame_is_refused_at_its_header() -> None:
    with pytest.raises(HostFailure, match="more than"):
        list(FrameDecoder().feed(struct.pack(">BI", 0, 2**32 - 1)))


def test_half_a_frame_is_not_an_end() -> None:
    decoder = FrameDecoder()
    assert list(decoder.feed(LAST[:-1])) == []
    with pytest.raises(HostFailure, match="before its end"):
        decoder.finish()


def test_nothing_may_follow_the_last_frame() -> None:
    with pytest.raises(HostFailure, match="after the last"):
        list(FrameDecoder().feed(LAST + LAST))


@pytest.mark.parametrize("body", [b"[1]", b"nul", b"\xff\xfe", b"[" * 100_000, b"1" * 10_000])
def test_what_is_not_an_object_is_refused(body: bytes) -> None:
    with pytest.raises(HostFailure):
        decode_json(body)


@pytest.mark.parametrize("value", [1.5, True, "x", "9" * 30, -1, [], "1_0" * 9])
def test_numbers_are_numbers(value: object) -> None:
    with pytest.raises(HostFailure):
        integer({"n": value}, "n")


def test_64_bit_numbers_may_be_strings() -> None:
    assert integer({"n": "9223372036854775807"}, "n") == 2**63 - 1


def test_text_is_text() -> None:
    assert text({}, "a") == ""
    with pytest.raises(HostFailure):
        text({"a": 1}, "a")


@given(st.binary())
def test_bytes_survive(data: bytes) -> None:
    assert decode_bytes(encode_bytes(data)) == data


@pytest.mark.parametrize("value", ["%%%", 7, "A"])
def test_what_is_not_base64_is_refused(value: object) -> None:
    with pytest.raises(HostFailure):
        decode_bytes(value)


def test_a_stream_error_is_the_error_its_code_names() -> None:
    error = stream_error("start it", {"error": {"code": "not_found", "message": "no\x1b[31m such\nprogram"}})
    assert isinstance(error, NotFound)
    assert "\x1b" not in error.message
    assert "\n" not in error.message
    assert stream_error("start it", {}) is None
