"""What differs between async and sync beyond keywords. Written by hand on both sides, with the same names."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeAlias, TypeVar, TypeVarTuple

from pandastack._config import SOCKET_OPTIONS

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

    Socket: TypeAlias = ClientConnection

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
Ts = TypeVarTuple("Ts")


class CancelEvent(Protocol):
    """What may cancel a waiting create: a ``threading.Event`` or a ``multiprocessing.Event``."""

    def is_set(self) -> bool: ...
    def wait(self, timeout: float | None = None) -> Any: ...


def wait(seconds: float, cancel: CancelEvent | None) -> None:
    """Wait, at most until ``cancel`` is set."""
    if cancel is None:
        time.sleep(seconds)
    else:
        cancel.wait(seconds)


def call(function: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> Any:
    """The result of a user's function."""
    return function(*args, **kwargs)


def in_thread(function: Callable[[*Ts], T], *args: *Ts) -> T:
    """The result of a function that blocks on a file."""
    return function(*args)


def parallel(function: Callable[[A], B], arguments: list[A], limit: int) -> list[B]:
    """``function`` of every argument, at most ``limit`` at once, results in order."""
    with ThreadPoolExecutor(max_workers=limit, thread_name_prefix="pandastack") as pool:
        return list(pool.map(function, arguments))


def open_socket(url: str, headers: Mapping[str, str], *, proxy: str | None, timeout_seconds: float) -> Socket:
    """A WebSocket. Raises OSError, TimeoutError, WebSocketException."""
    from websockets.sync.client import connect  # late: few programs need it

    # Entered, and never left: closing it is its owner's affair.
    socket: Socket = connect(
        url, additional_headers=headers, proxy=proxy, open_timeout=timeout_seconds, **SOCKET_OPTIONS
    ).__enter__()
    return socket


def as_chunks(content: Iterable[bytes]) -> Iterator[bytes]:
    """A stream of bytes."""
    yield from content
