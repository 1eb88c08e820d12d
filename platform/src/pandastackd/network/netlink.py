"""Batches of rtnetlink requests: one send, all answers, the first refusal as an error that names its request.

pyroute2 encodes the messages (``IPBatch`` compiles without sending). A batch is not a transaction: the kernel
does what comes before and after a refused request too, so callers undo as a whole.

A batch and the socket it is sent through belong to the namespace of the calling thread.
"""

from __future__ import annotations

import os
import socket
import struct
from types import TracebackType
from typing import Any, Self

from pyroute2.iproute.linux import IPBatch

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ERROR = 2
_ANSWER_SECONDS = 10.0


class Batch:
    """Collects requests, then sends them at once. A context manager: it holds an encoder open."""

    def __init__(self) -> None:
        self._encoder: Any = IPBatch()
        self._labels: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._encoder.close()

    def link(self, label: str, command: str, **fields: Any) -> None:
        """Add a link request: ``command`` is ``add``, ``set`` or ``del``."""
        self._labels.append(label)
        self._encoder.link(command, **fields)

    def address(self, label: str, **fields: Any) -> None:
        """Add a request for an address."""
        self._labels.append(label)
        self._encoder.addr("add", **fields)

    def neighbour(self, label: str, **fields: Any) -> None:
        """Add a request for a neighbour entry."""
        self._labels.append(label)
        self._encoder.neigh("add", **fields)

    def route(self, label: str, **fields: Any) -> None:
        """Add a request for a route."""
        self._labels.append(label)
        self._encoder.route("add", **fields)

    def send(self, *, ignore: frozenset[int] = frozenset()) -> None:
        """Send everything collected and wait for every answer.

        Args:
            ignore: errno values that count as success.

        Raises:
            OSError: the first refusal; its text is the label of the refused request and the kernel's reason.
        """
        message = bytes(self._encoder.batch)
        labels = dict(zip(_sequence_numbers(message), self._labels, strict=True))
        self._encoder.reset()
        self._labels = []
        refusals: dict[int, int] = {}
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as channel:
            channel.bind((0, 0))
            channel.settimeout(_ANSWER_SECONDS)
            channel.sendall(message)
            waiting = set(labels)
            while waiting:
                for sequence, code in _answers(channel.recv(65_536)):
                    waiting.discard(sequence)
                    if code and code not in ignore:
                        refusals[sequence] = code
        for sequence, label in labels.items():
            if sequence in refusals:
                code = refusals[sequence]
                raise OSError(code, f"cannot {label}: {os.strerror(code)}")


def _sequence_numbers(message: bytes) -> list[int]:
    found = []
    offset = 0
    while offset < len(message):
        length, _, _, sequence, _ = _HEADER.unpack_from(message, offset)
        found.append(sequence)
        offset += (length + 3) & ~3
    return found


def _answers(data: bytes) -> list[tuple[int, int]]:
    """Pairs of sequence number and errno (0: done) in one datagram from the kernel."""
    found = []
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, _, sequence, _ = _HEADER.unpack_from(data, offset)
        if kind == _ERROR:
            found.append((sequence, -struct.unpack_from("=i", data, offset + _HEADER.size)[0]))
        offset += (length + 3) & ~3
    return found


def interface_index(name: str) -> int | None:
    """Index of an interface of the calling thread's namespace; None when there is none of that name."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


def interface_names() -> list[str]:
    """Interfaces of the calling thread's namespace."""
    return [name for _, name in socket.if_nameindex()]
