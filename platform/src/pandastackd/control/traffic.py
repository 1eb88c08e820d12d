"""Traffic from outside into a sandbox: anybody who knows the id may send it, and it counts as use.

The id is the secret that protects a port. The guest agent's own port demands the sandbox's access token
besides, and checks it itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

from pandastackd.control.host import Guest, HostAgent
from pandastackd.control.keys import Principal
from pandastackd.control.sandboxes import Sandboxes
from pandastackd.control.usage import Usage
from pandastackd.errors import Conflict, NotFound
from pandastackd.lifecycle import State
from pandastackd.store import Store


class Traffic:
    """The way of unauthenticated traffic to a guest."""

    def __init__(self, store: Store, host: HostAgent, sandboxes: Sandboxes, usage: Usage) -> None:
        self._store = store
        self._host = host
        self._sandboxes = sandboxes
        self._usage = usage

    @asynccontextmanager
    async def reach(self, sandbox_id: str, *, only_asks: bool = False) -> AsyncIterator[Guest]:
        """The guest of a sandbox, which counts as in use inside the block. One that sleeps is woken first.

        Args:
            only_asks: neither wakes a sleeping sandbox nor counts as use.

        Raises:
            NotFound: there is no such sandbox.
            Conflict: it does not run, and traffic does not change that: it is paused, or was made not to be woken so.
        """
        row = await self._store.sandboxes.get(sandbox_id)
        if row is None:
            raise NotFound(f"no sandbox {sandbox_id}", code="sandbox_not_found")
        if row.state == State.RUNNING:
            guest = self._host.guest(row.id)
            with nullcontext() if only_asks else self._usage.hold(row):
                yield guest
        elif only_asks or not row.wake_on_traffic:
            raise Conflict(f"sandbox {row.id} is {row.state}: resume it first", code="not_running")
        else:
            async with self._sandboxes.use(Principal(row.workspace, "", "traffic"), row.id) as guest:
                yield guest
