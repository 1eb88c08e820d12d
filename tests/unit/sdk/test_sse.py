"""Server-sent events, however the bytes are cut."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pandastack import _sse
from pandastack._sse import SseDecoder, SseError, SseEvent


def _all(*chunks: bytes) -> list[SseEvent]:
    decoder = SseDecoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)]


@given(
    texts=st.lists(st.text(), max_size=5),
    newline=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    data=st.data(),
)
def test_any_text_survives_any_cut(texts: list[str], newline: bytes, data: st.DataObject) -> None:
    payloads = [json.dumps({"chunk": text}, ensure_ascii=False) for text in texts]
    stream = b"".join(
        newline.join([b"event: stdout", b"data: " + payload.encode("utf-8", "surrogatepass"), b"", b""])
        for payload in payloads
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [json.loads(event.data)["chunk"] for event in _all(*chunks)] == texts


def test_byte_by_byte() -> None:
    stream = ': ping\n\nevent: exit\ndata: {"é":1}\n\n'.encode()
    assert _all(*(bytes([byte]) for byte in stream)) == [SseEvent("exit", '{"é":1}')]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\ndata: b\n\n", [SseEvent("message", "a\nb")]),
        (b"data:a\n\n", [SseEvent("message", "a")]),
        (b"event: done\n\n", []),
        (b"data: cut off\n", []),
        (b"id: 3\nretry: 5\nother\ndata: x\n\n", [SseEvent("message", "x")]),
        ("data: \u2028\x85\n\n".encode(), [SseEvent("message", "\u2028\x85")]),
    ],
)
def test_shapes(stream: bytes, events: list[SseEvent]) -> None:
    assert _all(stream) == events


@pytest.mark.parametrize("stream", [b"data: " + b"x" * 200, b"data: xxxxxxxxxx\n" * 30])
def test_an_event_without_end_is_refused(stream: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sse, "MAX_EVENT_BYTES", 100)
    with pytest.raises(SseError, match="larger than 100"):
        _all(stream)
