"""Warms the first kernel, then serves until told to end.

The server listens only when the default Python kernel has everything imported, so that a machine frozen when
``/health`` answers has a hot kernel in it.
"""

from __future__ import annotations

import asyncio
import signal
import tempfile
from pathlib import Path

from interpreter.contexts import Contexts
from interpreter.languages import LANGUAGES
from interpreter.sandbox import SandboxEnv
from interpreter.server import MAX_BODY, PORT, application


async def main() -> None:
    """Serves."""
    with tempfile.TemporaryDirectory(prefix="kernels-") as sockets:
        contexts = Contexts(Path(sockets))
        first = await contexts.default(LANGUAGES[0])
        await first.warm()
        server = application(contexts, SandboxEnv()).listen(PORT, max_buffer_size=MAX_BODY)
        end = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, end.set)
        await end.wait()
        server.stop()
        for context in contexts.all():
            await contexts.close(context.id)


if __name__ == "__main__":
    asyncio.run(main())
