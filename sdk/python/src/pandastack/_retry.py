"""When a refused create is sent again, and after how long. Pure: it decides, others wait.

Only refusals that promise nothing was created are retried: 503 with a ``Retry-After`` and the platform's own
error body, 507, and 429 with a ``Retry-After``. Never 500, 502, a bare 503, or a broken connection.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from pandastack.errors import PandastackError

_JITTER_CAPS = (1.0, 2.0, 4.0, 8.0, 15.0)
_FLOOR_507_SECONDS = 0.5
_SHORTEST_LAST_WAIT_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class CreateRetryEvent:
    """Told to ``on_create_retry`` before each wait.

    Attributes:
        method: HTTP method of the refused request.
        path: its path, without the API prefix.
        attempt: how many times it was refused so far.
        status_code: the refusal's status.
        error: the refusal's text.
        delay_seconds: how long the client waits now.
        elapsed_seconds: since the first attempt.
        retry_after_seconds: what the server asked for, if it did.
    """

    method: str
    path: str
    attempt: int
    status_code: int
    error: str
    delay_seconds: float
    elapsed_seconds: float
    retry_after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refused create: the error it would raise, and what else the decision needs."""

    error: PandastackError
    retry_after: str | None
    from_platform: bool


class RetryPlan:
    """The retries of one create, within a budget of seconds."""

    def __init__(
        self,
        method: str,
        path: str,
        budget_seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._method, self._path, self._budget = method, path, budget_seconds
        self._clock, self._jitter = clock, jitter
        self._started = clock()
        self._refused = 0

    def next(self, refusal: Refusal) -> CreateRetryEvent | None:
        """What to wait for before the next attempt, or ``None`` when the refusal is final."""
        status = refusal.error.status_code or 0
        asked = parse_retry_after(refusal.retry_after)
        if not _is_retried(status, asked, refusal):
            return None
        elapsed = self._clock() - self._started
        remaining = self._budget - elapsed
        floor = max(asked or 0.0, _FLOOR_507_SECONDS if status == 507 else 0.0)
        if remaining <= 0 or floor > remaining:
            return None
        cap = _JITTER_CAPS[min(self._refused, len(_JITTER_CAPS) - 1)]
        delay = floor + self._jitter(0.0, cap)
        if delay > remaining:
            delay = remaining
            if delay < max(floor, _SHORTEST_LAST_WAIT_SECONDS):
                return None
        self._refused += 1
        return CreateRetryEvent(
            method=self._method,
            path=self._path,
            attempt=self._refused,
            status_code=status,
            error=refusal.error.message,
            delay_seconds=delay,
            elapsed_seconds=elapsed,
            retry_after_seconds=asked,
        )


def parse_retry_after(value: str | None) -> float | None:
    """Seconds from a ``Retry-After`` header, a number or a date; ``None`` when there is no usable one."""
    if value is None or not value.strip():
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            when = parsedate_to_datetime(value)
        except ValueError:
            return None
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        seconds = (when - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _is_retried(status: int, asked: float | None, refusal: Refusal) -> bool:
    if refusal.error.retryable is False:
        return False
    match status:
        case 503:
            return asked is not None and refusal.from_platform
        case 429:
            return asked is not None
        case 507:
            return True
        case _:
            return False
