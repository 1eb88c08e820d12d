"""What the platform adds to a command that does nothing.

``exec`` of ``true`` through the API, beside the same command straight to the same guest agent in the same run; the
difference of the two is the platform's own time. The agent runs on this machine (``stand_in``), so that no microVM's
jitter hides it; ``server_cpu_ms`` is the processor time of the server for each command, which a busy machine does not
stretch. With ``--guest`` a microVM is measured as well, on the data directory (``PANDASTACK_DATA_DIR``, default
``/var/lib/pandastack``), straight meaning its agent's control address. Milliseconds as ``{p50, p90,
p99}``.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from beside import Place, main
from pandastackd.guest import Command, GuestClient
from quantiles import quantiles

NOTHING = "true"
WARM_UP = 10
HEADS = (
    "ms, p50 / p90 / p99",
    "through the API",
    "straight to the agent",
    "added, p50",
    "server's processor",
)


class Api:
    """Commands by the API over one kept connection: raw HTTP, so that the client is not what is measured."""

    def __init__(self, place: Place) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(place.url).netloc, timeout=60)
        self._target = f"/v1/sandboxes/{place.sandbox}/exec"
        self._headers = {"Authorization": f"Bearer {place.key}", "Content-Type": "application/json"}

    def run(self) -> float:
        """Run the command; how long it took, in milliseconds."""
        began = time.perf_counter()
        self._connection.request("POST", self._target, json.dumps({"cmd": NOTHING}), self._headers)
        answer = self._connection.getresponse()
        said = json.loads(answer.read())
        took = (time.perf_counter() - began) * 1e3
        if answer.status != 200 or said["exit_code"] != 0:
            raise RuntimeError(f"exec: {answer.status} {said}")
        return took


async def straight(guest: GuestClient) -> float:
    """The same command, by the platform's own client and nothing else of the platform."""
    began = time.perf_counter()
    result = await guest.run(Command(("/bin/bash", "-c", NOTHING)))
    took = (time.perf_counter() - began) * 1e3
    if result.exit_code != 0:
        raise RuntimeError(f"straight: exit code {result.exit_code}")
    return took


def measure(place: Place, options: argparse.Namespace) -> dict[str, Any]:
    """Alternate both ``n`` times."""
    return asyncio.run(_measure(place, options.n))


async def _measure(place: Place, n: int) -> dict[str, Any]:
    api, server = Api(place), place.pids["server"]
    before = 0.0
    through: list[float] = []
    direct: list[float] = []
    async with GuestClient(place.connect) as guest:
        for number in range(WARM_UP + n):
            if number == WARM_UP:
                before = cpu_ms(server)
            pair = (await asyncio.to_thread(api.run), await straight(guest))
            if number >= WARM_UP:
                through.append(pair[0])
                direct.append(pair[1])
    added = [one - other for one, other in zip(sorted(through), sorted(direct), strict=True)]
    return {
        "exec_ms": quantiles(through),
        "straight_ms": quantiles(direct),
        "added_ms_p50": quantiles(added)["p50"],
        "server_cpu_ms": round((cpu_ms(server) - before) / n, 2),
    }


def cpu_ms(pid: int) -> float:
    """Processor time that a process has used, in milliseconds."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) * 1e3 / os.sysconf("SC_CLK_TCK")


def rows(where: str, figures: dict[str, Any]) -> list[list[str]]:
    """One row of the table."""
    times = [" / ".join(f"{ms:.1f}" for ms in figures[way].values()) for way in ("exec_ms", "straight_ms")]
    return [[where, *times, f"{figures['added_ms_p50']:.1f}", f"{figures['server_cpu_ms']:.1f}"]]


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", {"n": (200, "commands each way")}, measure, HEADS, rows))
