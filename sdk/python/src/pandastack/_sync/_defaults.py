# Generated from _async/_defaults.py by scripts/generate_sync.py; do not edit.
"""The client behind ``Sandbox.create()`` and the like, which name none: one a process, made when needed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandastack._sync._client import PandaStack


class _Default:
    """The holder; its lock keeps two threads from making two clients."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._client: PandaStack | None = None

    def get(self) -> PandaStack:
        from pandastack._sync._client import PandaStack

        with self._lock:
            if self._client is None:
                self._client = PandaStack()
            return self._client

    def set(self, client: PandaStack | None) -> None:
        with self._lock:
            self._client = client


_default = _Default()


def get_default_client() -> PandaStack:
    """The client that ``set_default_client`` set, else one made of the environment."""
    return _default.get()


def set_default_client(client: PandaStack | None) -> None:
    """Use ``client`` where none is named; ``None`` goes back to the environment's."""
    _default.set(client)
