"""How much MCP's tools say, and how often they may be called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pandastackd.api.mcp.kept import Kept
from pandastackd.api.mcp.rate import BURST, MAX_KNOWN, Rate
from pandastackd.errors import RateLimited
from tests.unit.fakes import TurnableClock


@given(st.lists(st.binary(max_size=30)))
def test_the_ends_are_kept_and_the_gap_is_counted(pieces: list[bytes]) -> None:
    kept = Kept(20)
    for piece in pieces:
        kept.feed(piece)
    whole = b"".join(pieces)
    assert kept.left_out == max(0, len(whole) - 20)
    if kept.left_out:
        assert f"[... {kept.left_out} bytes left out ...]" in kept.text()
        assert kept.text().startswith(whole[:10].decode("utf-8", "ignore"))
        assert kept.text().endswith(whole[-10:].decode("utf-8", "ignore"))
    else:
        assert kept.text() == whole.decode("utf-8", "replace")


def test_a_burst_then_an_even_flow() -> None:
    clock = TurnableClock()
    start = clock()
    rate = Rate(60, now=lambda: (clock() - start).total_seconds())
    for _ in range(BURST):
        rate.take("a")
    with pytest.raises(RateLimited, match="wait 1"):
        rate.take("a")
    rate.take("b")
    clock.turn(2)
    rate.take("a")
    rate.take("a")
    with pytest.raises(RateLimited) as caught:
        rate.take("a")
    assert caught.value.retry_after_seconds == pytest.approx(1)


def test_buckets_that_are_full_again_are_forgotten() -> None:
    clock = TurnableClock()
    start = clock()
    rate = Rate(60, now=lambda: (clock() - start).total_seconds())
    for number in range(MAX_KNOWN + 1):
        rate.take(str(number))
    clock.turn(2)
    rate.take("last")
    assert len(rate._full_at) == 1
