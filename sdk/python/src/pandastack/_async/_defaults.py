"""The client behind ``Sandbox.create()`` and the like, which name none: one a process, made when needed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandastack._async._client import AsyncPandaStack


class _Default:
    """The holder; its lock keeps two threads from making two clients."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._client: AsyncPandaStack | None = None

    def get(self) -> AsyncPandaStack:
        from pandastack._async._client import AsyncPandaStack

        with self._lock:
            if self._client is None:
                self._client = AsyncPandaStack()
            return self._client

    def set(self, client: AsyncPandaStack | None) -> None:
        with self._lock:
            self._client = client


_default = _Default()


def get_default_client() -> AsyncPandaStack:
    """The client that ``set_default_client`` set, else one made of the environment."""
    return _default.get()


def set_default_client(client: AsyncPandaStack | None) -> None:
    """Use ``client`` where none is named; ``None`` goes back to the environment's."""
    _default.set(client)
