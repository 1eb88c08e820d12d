"""Stateful code: a context keeps its variables from one cell to the next."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from pandastack import _wire, errors
from pandastack._async._http import AsyncHttp
from pandastack._models import Execution
from pandastack._wire import Call


class AsyncCodeContext:
    """One running interpreter in a sandbox; closed at the end of its ``with`` block."""

    def __init__(self, http: AsyncHttp, sandbox_id: str, session_id: str, language: str) -> None:
        self._http = http
        self._route = _wire.path("sandboxes", sandbox_id, "repl", "sessions", session_id)
        self.id = session_id
        self.language = language

    async def run_code(self, code: str, timeout_seconds: float | None = None) -> Execution:
        """Run one cell and wait for it.

        Raises:
            SandboxTimeout: the cell ran out of its time; the context lives on.
        """
        call = Call(
            "POST",
            f"{self._route}/run",
            json=_wire.without_none(
                code=code, timeout_ms=None if timeout_seconds is None else round(timeout_seconds * 1000)
            ),
            timeout_seconds=None if timeout_seconds is None else timeout_seconds + _wire.EXEC_MARGIN_SECONDS,
        )
        try:
            return Execution.from_dict(_wire.mapping(await self._http.request(call)))
        except errors.ServerError as error:
            raise _wire.as_exec_error(error) from error

    async def close(self) -> None:
        """End the interpreter; harmless when it is gone already."""
        try:
            await self._http.request(Call("DELETE", self._route))
        except errors.NotFoundError:
            return

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
