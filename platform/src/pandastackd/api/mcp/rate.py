"""How often each workspace may call: a bucket of calls that fills up evenly. Of this process alone."""

from __future__ import annotations

import time
from collections.abc import Callable

from pandastackd.errors import RateLimited

BURST = 60
MAX_KNOWN = 10_000


class Rate:
    """Buckets by name.

    Args:
        per_minute: how fast a bucket fills.
        now: seconds on a clock that never goes back.
    """

    def __init__(self, per_minute: int, now: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_minute / 60
        self._now = now
        self._full_at: dict[str, float] = {}

    def take(self, name: str) -> None:
        """Count one call. Raises RateLimited when the bucket is empty."""
        now = self._now()
        if len(self._full_at) > MAX_KNOWN:
            self._full_at = {known: full for known, full in self._full_at.items() if full > now}
        # The moment at which the bucket would be full again says how much is missing in it.
        full_at = max(self._full_at.get(name, 0.0), now) + 1 / self._per_second
        over = (full_at - now) - BURST / self._per_second
        if over > 1e-9:
            raise RateLimited(
                f"more than {self._per_second * 60:g} MCP calls a minute; wait {over:.1f} s and go on",
                retry_after_seconds=over,
            )
        self._full_at[name] = full_at
