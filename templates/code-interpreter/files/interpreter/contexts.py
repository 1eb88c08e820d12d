"""All contexts of the machine: made on demand, found by id, one default a language."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

from interpreter.context import Context
from interpreter.languages import LANGUAGES, Language

DEFAULT = "default"
MOST_CONTEXTS = 32


class TooManyContextsError(Exception):
    """There are as many contexts as may be."""


class NoFolderError(Exception):
    """The folder that a context should start in is none."""


class Contexts:
    """The contexts.

    Args:
        sockets: a folder for what the kernels need.
    """

    def __init__(self, sockets: Path) -> None:
        self._sockets = sockets
        self._contexts: dict[str, Context] = {}
        self._opening: set[str] = set()
        self._starting: dict[str, asyncio.Task[Context]] = {}

    async def default(self, language: Language) -> Context:
        """The context that callers get who name none, started when it is first asked for.

        Raises:
            TooManyContextsError, KernelFailedError: it cannot be started.
        """
        identity = DEFAULT if language is LANGUAGES[0] else f"{DEFAULT}-{language.name}"
        if (context := self._contexts.get(identity)) is not None:
            return context
        # All who ask meanwhile wait for one start, which goes on when one of them leaves.
        if (task := self._starting.get(identity)) is None:
            task = asyncio.create_task(self.open(language, None, identity))
            self._starting[identity] = task
            task.add_done_callback(lambda _: self._starting.pop(identity, None))
        return await asyncio.shield(task)

    async def open(self, language: Language, cwd: str | None, identity: str | None = None) -> Context:
        """Starts a kernel in a folder; the user's home when none is named.

        Raises:
            TooManyContextsError: there are too many already.
            NoFolderError: the folder does not exist.
            KernelFailedError: the kernel did not start.
        """
        where = cwd or str(Path.home())
        if not await asyncio.to_thread(Path(where).is_dir):
            raise NoFolderError
        # Those on their way count, too: they take memory already.
        if len(self._contexts) + len(self._opening) >= MOST_CONTEXTS:
            raise TooManyContextsError
        identity = identity or secrets.token_hex(8)
        context = Context(identity, language, where, self._sockets / identity)
        self._opening.add(identity)
        try:
            await context.start()
        finally:
            self._opening.discard(identity)
        self._contexts[identity] = context
        return context

    def find(self, identity: str) -> Context:
        """The context with this id. Raises KeyError."""
        return self._contexts[identity]

    async def close(self, identity: str) -> None:
        """Ends a context, its kernel and whatever runs in it. Raises KeyError."""
        await self._contexts.pop(identity).close()

    def all(self) -> list[Context]:
        """Every context, the oldest first."""
        return list(self._contexts.values())
