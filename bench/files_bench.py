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
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from pandastack import PandaStack
from pandastackd.child_server import ChildServer
from pandastackd.guest import GuestClient
from quantiles import quantiles
from stand_in import StandIn, stand_in

PIECE = 1 << 20
Transfer = Callable[[], None]


class Way:
    """One way to a file: raw HTTP, so that the client is not the limit.

    Args:
        url: where.
        method: of an upload.
        headers: of both directions.
    """

    def __init__(self, url: str, method: str, target: str, headers: dict[str, str], size: int) -> None:
        self._place = urlsplit(url).netloc
        self._method = method
        self._target = target
        self._headers = headers
        self._size = size

    def upload(self) -> None:
        """Send ``size`` bytes."""
        connection = http.client.HTTPConnection(self._place, timeout=600)
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
        connection = http.client.HTTPConnection(self._place, timeout=600)
        connection.request("GET", self._target, headers=self._headers)
        answer = connection.getresponse()
        buffer = memoryview(bytearray(PIECE))
        received = 0
        while count := answer.readinto(buffer):
            received += count
        if answer.status != 200 or received != self._size:
            raise RuntimeError(f"download: {answer.status}, {received} of {self._size} bytes")
        connection.close()


def ways_of(url: str, key: str, sandbox: str, token: str, path: str, size: int) -> dict[str, Way]:
    """The two ways through the platform."""
    file = quote(path, safe="")
    agent = {"E2b-Sandbox-Id": sandbox, "E2b-Sandbox-Port": "49983", "X-Access-Token": token}
    return {
        "api": Way(
            url, "PUT", f"/v1/sandboxes/{sandbox}/fs?path={file}", {"Authorization": f"Bearer {key}"}, size
        ),
        "gateway": Way(url, "POST", f"/files?path={file}", agent, size),
    }


def measure(ways: dict[str, tuple[Transfer, Transfer]], n: int, size: int) -> dict[str, dict[str, Any]]:
    """Alternate the ways ``n`` times; MB/s by direction and way."""
    took: dict[str, dict[str, list[float]]] = {
        direction: {name: [] for name in ways} for direction in ("upload", "download")
    }
    for number in range(n + 1):
        for name, transfers in ways.items():
            for direction, transfer in zip(took, transfers, strict=True):
                began = time.perf_counter()
                transfer()
                if number:  # the first round warms up
                    took[direction][name].append(time.perf_counter() - began)
    return {
        direction: {name: _speed(seconds, size) for name, seconds in by_way.items()}
        for direction, by_way in took.items()
    }


def _speed(seconds: list[float], size: int) -> dict[str, float]:
    return {name: round(size / 1e6 / at, 1) for name, at in quantiles(seconds, digits=6).items()}


def of_stand_in(platform: StandIn, n: int, size: int) -> dict[str, Any]:
    """The platform's own path."""
    client = PandaStack(token=platform.key, base_url=platform.url)
    with client.sandboxes.create(template="base", ttl_seconds=3600) as sandbox:
        path = str(platform.folder / "file")
        ways = ways_of(platform.url, platform.key, sandbox.id, "", path, size)
        file = quote(path, safe="")
        ways["straight"] = Way(
            f"http://127.0.0.1:{platform.control}", "POST", f"/files?path={file}", {}, size
        )
        answer = measure({name: (way.upload, way.download) for name, way in ways.items()}, n, size)
        for name, pid in (("server", platform.server_pid), ("agent", platform.agent_pid)):
            answer[f"{name}_peak_mb"] = _peak_mb(pid)
        return answer


def of_guest(data_dir: Path, n: int, size: int) -> dict[str, Any]:
    """A microVM: through the platform, and straight to its agent."""
    from tests.vm.control_link import control_client

    with ExitStack() as stack:
        server = stack.enter_context(ChildServer(data_dir, output=sys.stderr))
        client = PandaStack(token=server.admin_key, base_url=server.url)
        sandbox = stack.enter_context(client.sandboxes.create(template="base", ttl_seconds=3600))
        path = "/dev/shm/file"
        token = asyncio.run(_token(server, sandbox.id))
        ways: dict[str, tuple[Transfer, Transfer]] = {
            name: (way.upload, way.download)
            for name, way in ways_of(server.url, server.admin_key, sandbox.id, token, path, size).items()
        }

        def straight(transfer: Callable[[GuestClient, str, int], Any]) -> Transfer:
            async def run() -> None:
                async with control_client(data_dir, sandbox.id) as guest:
                    await transfer(guest, path, size)

            return lambda: asyncio.run(run())

        ways["straight"] = (straight(_write), straight(_read))
        return measure(ways, n, size)


async def _token(server: ChildServer, sandbox_id: str) -> str:
    from pandastackd.control.keys import AccessTokens

    return AccessTokens.from_file(server.data_dir / "secret.key").of(sandbox_id)


async def _write(guest: GuestClient, path: str, size: int) -> None:
    async def pieces() -> Any:
        piece = os.urandom(PIECE)
        for start in range(0, size, PIECE):
            yield piece[: min(PIECE, size - start)]

    await guest.write(path, pieces(), user="root")


async def _read(guest: GuestClient, path: str, size: int) -> None:
    received = 0
    async with guest.read(path, user="root") as file:
        async for chunk in file.chunks:
            received += len(chunk)
    if received != size:
        raise RuntimeError(f"download: {received} of {size} bytes")


def _peak_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6


def render(answer: dict[str, Any]) -> str:
    """The answer as a Markdown table."""
    rows = [
        "| MB/s, p50 / p90 / p99 | through the API | through the gateway | straight to the agent |",
        "|---|---|---|---|",
    ]
    for where in ("stand_in", "guest"):
        for direction in ("upload", "download"):
            if where in answer:
                speeds = answer[where][direction]
                cells = [
                    " / ".join(f"{speeds[way][name]:.0f}" for name in ("p50", "p90", "p99"))
                    for way in ("api", "gateway", "straight")
                ]
                rows.append(f"| {where.replace('_', '-')}, {direction} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> int:
    """Measure and print."""
    options = parse()
    size = options.mb * 1_000_000
    answer: dict[str, Any] = {"n": options.n, "mb": options.mb}
    with stand_in() as platform:
        answer["stand_in"] = of_stand_in(platform, options.n, size)
    if options.guest:
        data_dir = Path(os.environ.get("PANDASTACK_DATA_DIR", "/var/lib/pandastack"))
        size = options.guest_mb * 1_000_000
        answer["guest"] = {"mb": options.guest_mb, **of_guest(data_dir, options.n, size)}
    print(json.dumps(answer) if options.json else render(answer))
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument("-n", type=int, default=10, help="transfers each way")
    parser.add_argument("--mb", type=int, default=200, help="size of the file, in MB")
    parser.add_argument("--guest", action="store_true", help="measure a microVM too; needs root and QEMU")
    parser.add_argument("--guest-mb", type=int, default=50, help="size of the file in the microVM, in MB")
    options = parser.parse_args()
    if min(options.n, options.mb, options.guest_mb) < 1:
        parser.error("-n, --mb and --guest-mb must be 1 or more")
    return options


if __name__ == "__main__":
    sys.exit(main())
