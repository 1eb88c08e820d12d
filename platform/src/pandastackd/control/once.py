"""Calls that make something, made once however often they are sent.

A call with an idempotency key takes the key first, works, and remembers its answer beside the key. The same call sent
again gets that answer, or waits for it. A call that failed frees its key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pandastackd.control.clock import Clock
from pandastackd.errors import Conflict, InvalidRequest
from pandastackd.store import IdempotencyRow, Store

ABANDONED = timedelta(minutes=15)
"""When a call without an answer is taken for one whose process is no more; longer than any call takes."""

WAIT_SECONDS = 60.0
PAUSE_SECONDS = 0.05
MAX_KEY = 256

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Key:
    """A caller's name for one call; ``digest`` is the hash of all it asked for."""

    text: str
    digest: str

    def __post_init__(self) -> None:
        if not 0 < len(self.text) <= MAX_KEY:
            raise InvalidRequest(f"Idempotency-Key must have 1 to {MAX_KEY} characters, or be left out")


class Once:
    """Remembers what calls were answered."""

    def __init__(self, store: Store, now: Clock) -> None:
        self._store = store
        self._now = now

    async def run(self, workspace: str, key: Key | None, work: Callable[[], Awaitable[Answer]]) -> Answer:
        """What ``work`` answers, or answered when this call was sent before.

        Raises:
            Conflict: the key was used for something else, or the first call with it is still at it.
        """
        if key is None:
            return await work()
        earlier = await self._begin(workspace, key)
        if earlier is not None:
            return earlier
        try:
            answer = await work()
        except BaseException:
            await self._store.idempotency.free(workspace, key.text)
            raise
        await self._store.idempotency.finish(workspace, key.text, answer)
        return answer

    async def _begin(self, workspace: str, key: Key) -> Answer | None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + WAIT_SECONDS
        while loop.time() < deadline:
            now = self._now()
            row = IdempotencyRow(
                workspace=workspace, key=key.text, sandbox_id="", digest=key.digest, created_at=now
            )
            if await self._store.idempotency.begin(row, abandoned_before=now - ABANDONED):
                return None
            used = await self._store.idempotency.get(workspace, key.text)
            if used is not None and used.digest != key.digest:
                raise Conflict(
                    "this Idempotency-Key was used for a different call; use a new key for a new one",
                    code="idempotency_mismatch",
                )
            if used is not None and used.answer is not None:
                return used.answer
            await asyncio.sleep(PAUSE_SECONDS)
        raise Conflict("the first call with this Idempotency-Key is still at it; try again", code="busy")
