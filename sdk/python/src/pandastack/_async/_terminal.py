"""A program in a sandbox that is talked to while it runs: in a terminal, or over plain pipes."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from websockets.exceptions import ConnectionClosed

from pandastack import _wire, errors
from pandastack._models import ExecOutput

if TYPE_CHECKING:
    from pandastack._async._runtime import Socket


class AsyncTerminal:
    """A running program: iterate over it for its output, send it input meanwhile. It ends with its ``close``.

    Attributes:
        exit_code: set once it has ended by itself and its output has been read to the end.
    """

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self.exit_code: int | None = None

    async def send(self, data: bytes | str) -> None:
        """Give it input, as if typed. Waits while it takes none; does nothing once it has ended."""
        try:
            await self._socket.send(data.encode() if isinstance(data, str) else data)
        except ConnectionClosed:
            return

    async def resize(self, *, rows: int, cols: int) -> None:
        """Tell it the new size of its terminal."""
        await self._tell({"resize": {"rows": rows, "cols": cols}})

    async def end_input(self) -> None:
        """Let it see the end of its input; in a terminal that is Ctrl-D."""
        await self._tell({"eof": True})

    async def events(self) -> AsyncGenerator[ExecOutput, None]:
        """Its output as it comes, byte for byte, until it ends.

        Raises:
            ExecInterrupted: the connection ended before the program did.
            PandastackError: the sandbox was deleted, or does not run any more.
        """
        while self.exit_code is None:
            try:
                message = await self._socket.recv()
            except ConnectionClosed as error:
                raise errors.ExecInterrupted(
                    f"the connection ended before the program did: {error}"
                ) from error
            if isinstance(message, bytes):
                yield ExecOutput("stdout", message)
                continue
            said = _wire.mapping(json.loads(message))
            if "exit" in said:
                self.exit_code = int(said["exit"])
            elif "error" in said:
                raise _wire.socket_error(said)
            elif "stderr" in said:
                yield ExecOutput("stderr", _exact(said))

    async def wait(self) -> int:
        """Read the rest of its output, drop it, and return its exit code; errors as of ``events``."""
        async for _ in self.events():
            pass
        assert self.exit_code is not None  # noqa: S101 - how `events` ends
        return self.exit_code

    async def close(self) -> None:
        """Hang up, on which the server ends the program with all its children."""
        await self._socket.close()

    def __aiter__(self) -> AsyncIterator[ExecOutput]:
        return self.events()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _tell(self, message: dict[str, Any]) -> None:
        try:
            await self._socket.send(json.dumps(message))
        except ConnectionClosed:
            return


def _exact(said: Any) -> bytes:
    return base64.b64decode(said["base64"]) if "base64" in said else str(said["stderr"]).encode()
