"""Use keeps a sandbox alive: every call, and for as long as a call lasts.

Writing each use down would cost a transaction a request, so it is written at most every tenth of the time
to live (at most every five seconds), after the request and not before it. A call that lasts longer is
written again on the way.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pandastackd.control.background import Background
from pandastackd.control.clock import Clock
from pandastackd.lifecycle import ALIVE
from pandastackd.store import SandboxRow, Store

LONGEST_GAP_SECONDS = 5.0
SHARE_OF_TTL = 10


class Usage:
    """Which sandboxes are in use in this process."""

    def __init__(
        self,
        store: Store,
        background: Background,
        now: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._background = background
        self._now = now
        self._monotonic = monotonic
        self._active: Counter[str] = Counter()
        self._gap: dict[str, float] = {}
        self._written: dict[str, float] = {}

    @contextmanager
    def hold(self, row: SandboxRow) -> Iterator[None]:
        """Count the sandbox as in use inside the block."""
        sandbox_id = row.id
        self._gap[sandbox_id] = min(LONGEST_GAP_SECONDS, row.ttl_seconds / SHARE_OF_TTL)
        self._active[sandbox_id] += 1
        self.note(sandbox_id)
        try:
            yield
        finally:
            self._active[sandbox_id] -= 1
            self.note(sandbox_id)
            if self._active[sandbox_id] <= 0:
                del self._active[sandbox_id]

    def is_active(self, sandbox_id: str) -> bool:
        """Whether a call is using the sandbox just now."""
        return sandbox_id in self._active

    def note(self, sandbox_id: str) -> None:
        """Write the use down, if the last time is long enough ago."""
        now = self._monotonic()
        if now - self._written.get(sandbox_id, float("-inf")) < self._gap.get(sandbox_id, 0.0):
            return
        self._written[sandbox_id] = now
        # Not of a hibernated one: a use that is written down late must not begin its time to live again.
        touch = self._store.sandboxes.touch(sandbox_id, now=self._now(), expected=ALIVE)
        self._background.spawn(touch, name="touch")

    async def refresh(self) -> None:
        """Note every sandbox that is in use; called again and again."""
        for sandbox_id in list(self._active):
            self.note(sandbox_id)

    def forget(self, sandbox_id: str) -> None:
        """Drop what is remembered of a sandbox that is gone."""
        self._gap.pop(sandbox_id, None)
        self._written.pop(sandbox_id, None)
