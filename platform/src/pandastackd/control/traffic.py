"""Traffic from outside into a sandbox: anybody who knows the id may send it, and it counts as use.

The id is the secret that protects a port, and the sandbox's traffic token too, where its owner wished so. The guest
agent's own port demands the sandbox's access token instead, and checks it itself.
"""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

from pandastackd.control.host import Guest, HostAgent
from pandastackd.control.keys import AccessTokens, Principal
from pandastackd.control.network import Network
from pandastackd.control.sandboxes import Sandboxes
from pandastackd.control.usage import Usage
from pandastackd.errors import Conflict, Forbidden, NotFound
from pandastackd.lifecycle import State
from pandastackd.store import SandboxRow, Store


class Traffic:
    """The way of unauthenticated traffic to a guest."""

    def __init__(
        self, store: Store, host: HostAgent, sandboxes: Sandboxes, usage: Usage, tokens: AccessTokens
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._host = host
        self._sandboxes = sandboxes
        self._usage = usage

    @asynccontextmanager
    async def enter(
        self, sandbox_id: str, *, token: str | None, guarded: bool = True, only_asks: bool = False
    ) -> AsyncIterator[tuple[Guest, Network]]:
        """As :meth:`reach`, for somebody outside; also gives the sandbox's network.

        Args:
            token: the traffic token that was sent, if any.
            guarded: whether the token is asked for where the ports are not for everybody.

        Raises:
            NotFound, Conflict: as :meth:`reach`.
            Forbidden: the sandbox's ports are for those who have its traffic token, and this is not it.
        """
        row = await self._find(sandbox_id)
        network = Network.of(row.network)
        if guarded and not network.public_traffic:
            # Before anything else: who may not come in does not wake it either.
            wanted = self._tokens.traffic(row.id)
            if not hmac.compare_digest(wanted.encode(), (token or "").encode()):
                raise Forbidden(
                    "the sandbox's ports are closed to the public: send its traffic token in the header "
                    "e2b-traffic-access-token",
                    code="traffic_token",
                )
        async with self._reach(row, only_asks) as guest:
            yield guest, network

    @asynccontextmanager
    async def reach(self, sandbox_id: str, *, only_asks: bool = False) -> AsyncIterator[Guest]:
        """The guest of a sandbox, which counts as in use inside the block. One that sleeps is woken first.

        Args:
            only_asks: neither wakes a sleeping sandbox nor counts as use.

        Raises:
            NotFound: there is no such sandbox.
            Conflict: it does not run, and traffic does not change that: it is paused, or was made not to be woken so.
        """
        async with self._reach(await self._find(sandbox_id), only_asks) as guest:
            yield guest

    @asynccontextmanager
    async def _reach(self, row: SandboxRow, only_asks: bool) -> AsyncIterator[Guest]:
        if row.state == State.RUNNING:
            guest = self._host.guest(row.id)
            with nullcontext() if only_asks else self._usage.hold(row):
                yield guest
        elif only_asks or not row.wake_on_traffic:
            raise Conflict(f"sandbox {row.id} is {row.state}: resume it first", code="not_running")
        else:
            async with self._sandboxes.use(Principal(row.workspace, "", "traffic"), row.id) as guest:
                yield guest

    async def _find(self, sandbox_id: str) -> SandboxRow:
        row = await self._store.sandboxes.get(sandbox_id)
        if row is None:
            raise NotFound(f"no sandbox {sandbox_id}", code="sandbox_not_found")
        return row
