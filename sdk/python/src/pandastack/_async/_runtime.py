"""What differs between async and sync beyond keywords. Written by hand on both sides, with the same names."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeAlias, TypeVar, TypeVarTuple

import anyio
import anyio.to_thread

from pandastack._config import SOCKET_OPTIONS

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

    Socket: TypeAlias = ClientConnection

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
Ts = TypeVarTuple("Ts")


class CancelEvent(Protocol):
    """What may cancel a waiting create: an ``asyncio.Event`` or an ``anyio.Event``."""

    def is_set(self) -> bool: ...
    async def wait(self) -> Any: ...


async def wait(seconds: float, cancel: CancelEvent | None) -> None:
    """Wait, at most until ``cancel`` is set."""
    if cancel is None:
        await anyio.sleep(seconds)
        return
    with anyio.move_on_after(seconds):
        await cancel.wait()


async def call(function: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> Any:
    """The result of a user's function, which may be a plain or a coroutine function."""
    result = function(*args, **kwargs)
    return await result if inspect.isawaitable(result) else result


async def in_thread(function: Callable[[*Ts], T], *args: *Ts) -> T:
    """The result of a function that blocks on a file."""
    return await anyio.to_thread.run_sync(function, *args)


async def parallel(function: Callable[[A], Awaitable[B]], arguments: list[A], limit: int) -> list[B]:
    """``function`` of every argument, at most ``limit`` at once, results in order."""
    limiter = anyio.CapacityLimiter(limit)
    results: dict[int, B] = {}

    async def one(index: int, argument: A) -> None:
        async with limiter:
            results[index] = await function(argument)

    async with anyio.create_task_group() as group:
        for index, argument in enumerate(arguments):
            group.start_soon(one, index, argument)
    return [results[index] for index in range(len(arguments))]


async def open_socket(
    url: str, headers: Mapping[str, str], *, proxy: str | None, timeout_seconds: float
) -> Socket:
    """A WebSocket. Raises OSError, TimeoutError, WebSocketException."""
    from websockets.asyncio.client import connect  # late: few programs need it

    return await connect(
        url, additional_headers=headers, proxy=proxy, open_timeout=timeout_seconds, **SOCKET_OPTIONS
    )


async def as_chunks(content: AsyncIterable[bytes] | Iterable[bytes]) -> AsyncIterator[bytes]:
    """A stream of bytes, whether its source is async or not."""
    if isinstance(content, AsyncIterable):
        async for chunk in content:
            yield chunk
    else:
        for chunk in content:
            yield chunk
