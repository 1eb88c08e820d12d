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
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pandastack import PandaStack
from pandastackd.child_server import ChildServer
from pandastackd.guest import Command, GuestClient
from quantiles import quantiles
from stand_in import agent_client, stand_in

NOTHING = "true"
WARM_UP = 10
OpenGuest = Callable[[], AbstractAsyncContextManager[GuestClient]]


class Api:
    """Commands by the API over one kept connection: raw HTTP, so that the client is not what is measured."""

    def __init__(self, url: str, key: str, sandbox: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        self._target = f"/v1/sandboxes/{sandbox}/exec"
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

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


async def measure(api: Api, open_guest: OpenGuest, server: int, n: int) -> dict[str, Any]:
    """Alternate both ``n`` times; ``server`` is the process id of the platform."""
    before = 0.0
    through: list[float] = []
    direct: list[float] = []
    async with open_guest() as guest:
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


def of_stand_in(n: int) -> dict[str, Any]:
    """The platform's own time."""
    with stand_in() as platform:
        client = PandaStack(token=platform.key, base_url=platform.url)
        sandbox = client.sandboxes.create(template="base", ttl_seconds=3600)
        api = Api(platform.url, platform.key, sandbox.id)

        @asynccontextmanager
        async def guest() -> AsyncIterator[GuestClient]:
            async with agent_client(platform.public, platform.control) as client:
                yield client

        return asyncio.run(measure(api, guest, platform.server_pid, n))


def of_guest(data_dir: Path, n: int) -> dict[str, Any]:
    """A microVM."""
    from tests.vm.control_link import control_client

    with ChildServer(data_dir, output=sys.stderr) as server:
        client = PandaStack(token=server.admin_key, base_url=server.url)
        with client.sandboxes.create(template="base", ttl_seconds=3600) as sandbox:
            api = Api(server.url, server.admin_key, sandbox.id)
            return asyncio.run(measure(api, lambda: control_client(data_dir, sandbox.id), server.pid, n))


def render(answer: dict[str, Any]) -> str:
    """The answer as a Markdown table."""
    rows = [
        "| ms, p50 / p90 / p99 | through the API | straight to the agent | added, p50 | server's processor |",
        "|---|---|---|---|---|",
    ]
    for where in ("stand_in", "guest"):
        if where in answer:
            cells = [
                " / ".join(f"{answer[where][way][name]:.1f}" for name in ("p50", "p90", "p99"))
                for way in ("exec_ms", "straight_ms")
            ]
            added = answer[where]["added_ms_p50"]
            cpu = answer[where]["server_cpu_ms"]
            rows.append(f"| {where.replace('_', '-')} | {' | '.join(cells)} | {added:.1f} | {cpu:.1f} |")
    return "\n".join(rows)


def main() -> int:
    """Measure and print."""
    options = parse()
    answer: dict[str, Any] = {"n": options.n, "stand_in": of_stand_in(options.n)}
    if options.guest:
        data_dir = Path(os.environ.get("PANDASTACK_DATA_DIR", "/var/lib/pandastack"))
        answer["guest"] = of_guest(data_dir, options.n)
    print(json.dumps(answer) if options.json else render(answer))
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument("-n", type=int, default=200, help="commands each way")
    parser.add_argument("--guest", action="store_true", help="measure a microVM too; needs root and QEMU")
    options = parser.parse_args()
    if options.n < 1:
        parser.error("-n must be 1 or more")
    return options


if __name__ == "__main__":
    sys.exit(main())
