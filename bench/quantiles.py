"""Medians and tails of small samples."""

from __future__ import annotations

from collections.abc import Sequence


def quantiles(samples: Sequence[float], *, digits: int = 2) -> dict[str, float]:
    """``{p50, p90, p99}`` by the nearest-rank method, so that every figure is one that was measured; zeros for no
    samples.
    """
    ordered = sorted(samples)
    if not ordered:
        return {"p50": 0.0, "p90": 0.0, "p99": 0.0}
    # Nearest rank: the smallest sample that at least q percent of all samples do not exceed.
    return {f"p{q}": round(ordered[max(0, -(-q * len(ordered) // 100) - 1)], digits) for q in (50, 90, 99)}
