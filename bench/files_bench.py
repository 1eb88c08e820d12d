"""How fast files travel: through the API and through the gateway, beside the same transfer straight to the guest agent.

The platform's path is measured with an agent that is not the limit: the real one, run on this machine (``stand_in``).
With ``--guest`` a microVM is measured as well, on the data directory (``PANDASTACK_DATA_DIR``, default
``/var/lib/pandastack``): through the platform, and straight to its agent's control address, which is the guest's own
ceiling. Figures are MB/s (10^6 bytes) at the p50, p90 and p99 of the time that a transfer took.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from beside import Place, main
from pandastackd.guest.client import CONTROL_PORT
from quantiles import quantiles

PIECE = 1 << 20
HEADS = ("MB/s, p50 / p90 / p99", "through the API", "through the gateway", "straight to the agent")
WAYS = ("api", "gateway", "straight")
DIRECTIONS = ("upload", "download")


class Way:
    """One way to a file: raw HTTP, so that the client is not the limit.

    Args:
        connect: makes a connection.
        method: of an upload.
        headers: of both directions.
        size: of the file, in bytes.
    """

    def __init__(
        self,
        connect: Callable[[], socket.socket],
        method: str,
        target: str,
        headers: dict[str, str],
        size: int,
    ) -> None:
        self._connect = connect
        self._method = method
        self._target = target
        self._headers = headers
        self._size = size

    def upload(self) -> None:
        """Send ``size`` bytes."""
        connection = self._open()
        connection.putrequest(self._method, self._target)
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(self._size)}
        for name, value in (self._headers | headers).items():
            connection.putheader(name, value)
        connection.endheaders()
        piece = memoryview(os.urandom(PIECE))
        for start in range(0, self._size, PIECE):
            connection.sock.sendall(piece[: min(PIECE, self._size - start)])
        answer = connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"upload: {answer.status} {said[:200]!r}")
        connection.close()

    def download(self) -> None:
        """Receive ``size`` bytes."""
        connection = self._open()
        connection.request("GET", self._target, headers=self._headers)
        answer = connection.getresponse()
        buffer = memoryview(bytearray(PIECE))
        received = 0
        while count := answer.readinto(buffer):
            received += count
        if answer.status != 200 or received != self._size:
            raise RuntimeError(f"download: {answer.status}, {received} of {self._size} bytes")
        connection.close()

    def _open(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("sandbox")
        connection.sock = self._connect()
        connection.sock.settimeout(600)
        return connection


def ways_of(place: Place, size: int) -> dict[str, Way]:
    """The two ways through the platform, and the one past it."""
    server = urlsplit(place.url)
    file = quote(f"{place.folder}/file", safe="")
    envd = {"E2b-Sandbox-Id": place.sandbox, "E2b-Sandbox-Port": "49983", "X-Access-Token": place.token}
    key = {"Authorization": f"Bearer {place.key}"}

    def platform() -> socket.socket:
        return socket.create_connection((server.hostname, server.port))

    def agent() -> socket.socket:
        return asyncio.run(place.connect(CONTROL_PORT))

    return {
        "api": Way(platform, "PUT", f"/v1/sandboxes/{place.sandbox}/fs?path={file}", key, size),
        "gateway": Way(platform, "POST", f"/files?path={file}", envd, size),
        "straight": Way(agent, "POST", f"/files?path={file}", {}, size),
    }


def measure(place: Place, options: argparse.Namespace) -> dict[str, Any]:
    """Alternate the ways ``n`` times; MB/s by direction and way, and the peak memory of who is on the path."""
    mb = options.guest_mb if place.name == "guest" else options.mb
    ways = ways_of(place, mb * 1_000_000)
    took: dict[str, dict[str, list[float]]] = {
        direction: {way: [] for way in ways} for direction in DIRECTIONS
    }
    for number in range(options.n + 1):
        for name, way in ways.items():
            for direction in DIRECTIONS:
                began = time.perf_counter()
                getattr(way, direction)()
                if number:  # the first round warms up
                    took[direction][name].append(time.perf_counter() - began)
    speeds = {
        direction: {way: _speed(seconds, mb) for way, seconds in by_way.items()}
        for direction, by_way in took.items()
    }
    return {**speeds, **{f"{name}_peak_mb": _peak_mb(pid) for name, pid in place.pids.items()}}


def _speed(seconds: list[float], mb: int) -> dict[str, float]:
    return {name: round(mb / at, 1) for name, at in quantiles(seconds, digits=6).items()}


def _peak_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return round(kib * 1024 / 1e6, 1)


def rows(where: str, figures: dict[str, Any]) -> list[list[str]]:
    """The rows of the table."""
    return [
        [
            f"{where}, {direction}",
            *(" / ".join(f"{speed:.0f}" for speed in figures[direction][way].values()) for way in WAYS),
        ]
        for direction in DIRECTIONS
    ]


if __name__ == "__main__":
    numbers = {
        "n": (10, "transfers each way"),
        "mb": (200, "size of the file, in MB"),
        "guest_mb": (50, "size of the file in the microVM, in MB; it goes to the guest's memory"),
    }
    sys.exit(main(__doc__ or "", numbers, measure, HEADS, rows))
