"""The control plane as a whole: what it is made of, and the order in which it starts and stops."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pandastackd.config import Settings
from pandastackd.control.background import Background
from pandastackd.control.clock import Clock, utc_now
from pandastackd.control.commands import Commands
from pandastackd.control.creation import Creator
from pandastackd.control.forks import Forks
from pandastackd.control.host import HostAgent
from pandastackd.control.interpreters import Interpreters
from pandastackd.control.keys import AccessTokens, Keys
from pandastackd.control.lineage import Lineage
from pandastackd.control.moves import Moves
from pandastackd.control.once import Once
from pandastackd.control.ports import Ports
from pandastackd.control.previews import Previews
from pandastackd.control.sandboxes import Sandboxes
from pandastackd.control.snapshots import Snapshots
from pandastackd.control.templates import Templates
from pandastackd.control.terminals import Terminals
from pandastackd.control.traffic import Traffic
from pandastackd.control.upkeep import Upkeep
from pandastackd.control.usage import Usage
from pandastackd.store import Store

LOCAL_HOST = "local"
"""Name of the one host of an embedded platform."""

REAP_SECONDS = 1.0
RECONCILE_SECONDS = 30.0
FORGET_SECONDS = 3600.0


class Control:
    """The control plane over one host.

    Attributes:
        keys, templates, sandboxes, snapshots, forks, lineage, commands, terminals, interpreters, ports, previews,
            usage: what callers work with.
        traffic: the way of traffic from outside to a sandbox's ports.
        tokens: the secrets that sandboxes' public agents demand.
        upkeep: what goes on by itself, step by step, for tests to drive.
    """

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        settings: Settings,
        tokens: AccessTokens,
        *,
        now: Clock = utc_now,
        host_id: str = LOCAL_HOST,
    ) -> None:
        self._store = store
        self._host_id = host_id
        self._now = now
        self._background = Background()
        background = self._background
        once = Once(store, now)
        self.keys = Keys(store, background, now)
        self.templates = Templates(host)
        self.commands = Commands(background)
        self.terminals = Terminals(background)
        self.usage = Usage(store, background, now)
        moves = Moves(store, host, settings, background, now)
        creator = Creator(store, host, host_id, self.templates, tokens, settings, background, now)
        self.sandboxes = Sandboxes(store, host, creator, moves, self.usage, settings, background, now)
        self.snapshots = Snapshots(store, host, host_id, moves, self.usage, once, background, now)
        self.forks = Forks(
            store,
            host,
            self.sandboxes,
            creator,
            moves,
            self.usage,
            tokens,
            once,
            settings,
            background,
            now,
        )
        self.lineage = Lineage(store)
        self.traffic = Traffic(store, host, self.sandboxes, self.usage, tokens)
        self.ports = Ports(store, self.sandboxes)
        self.previews = Previews(self.sandboxes, tokens, now)
        self.interpreters = Interpreters(self.sandboxes, background)
        self.tokens = tokens
        self.upkeep = Upkeep(store, host, host_id, self.sandboxes, moves, self.snapshots, now)

    async def prepare(self, admin_key: Path) -> Self:
        """Make the first key and bring the rows in line with the host; nobody else may be using this host
        yet.

        Raises:
            HostFailure: the file of the admin key holds something else.
        """
        await self.keys.ensure_admin(admin_key)
        await self._store.hosts.seen(self._host_id, now=self._now())
        await self.upkeep.reconcile(alone=True)
        return self

    def start(self) -> None:
        """Begin the background work."""
        repeat = self._background.repeat
        repeat(self.upkeep.reap, name="reap", pause_seconds=REAP_SECONDS)
        repeat(self.usage.refresh, name="usage", pause_seconds=REAP_SECONDS)
        repeat(self.upkeep.watch, name="watch", pause_seconds=0)
        repeat(self.upkeep.reconcile, name="reconcile", pause_seconds=RECONCILE_SECONDS)
        repeat(self.upkeep.forget, name="forget", pause_seconds=FORGET_SECONDS)

    async def settle(self) -> None:
        """Wait for the jobs that are under way, such as uses still to be written down."""
        await self._background.settle()

    async def ping(self) -> None:
        """Return when the store answers. Raises HostFailure."""
        await self._store.database.ping()

    async def close(self, *, timeout_seconds: float = 10.0) -> None:
        """Stop the background work; creates and deletes under way get ``timeout_seconds`` to finish."""
        await self._background.close(timeout_seconds=timeout_seconds)
