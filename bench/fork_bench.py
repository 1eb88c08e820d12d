"""What a fork costs: the parent's pause, the capture, each child until it answers, and the memory an idle child holds.

Starts a server of its own on the data directory (``PANDASTACK_DATA_DIR``, default ``/var/lib/pandastack``), makes one
parent, has it write ``--dirty`` MB of memory, and forks it ``-n`` times into ``--children`` children. With ``--sweep``
it does so over a range of dirty memory and of children and prints a table: what grows with what.
Times are milliseconds as ``{p50, p90, p99}``, memory is MB (10^6 bytes) of proportional set size.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from pandastack import PandaStack, PandastackError, Sandbox
from pandastackd.child_server import ChildServer
from quantiles import quantiles

SWEEP_DIRTY_MB = (10, 25, 100, 250, 500)
SWEEP_CHILDREN = (1, 10, 50)
FORK_TIMEOUT_SECONDS = 600.0


@dataclass
class Samples:
    """Everything measured, in the order it was measured."""

    pause: list[float] = field(default_factory=list)
    capture: list[float] = field(default_factory=list)
    child_ready: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    pss: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Bench:
    """A server, its client, and the forks made through it."""

    def __init__(self, server: ChildServer) -> None:
        self._server = server
        self._client = PandaStack(token=server.admin_key, base_url=server.url)
        self._http = httpx.Client(
            base_url=server.url,
            headers={"Authorization": f"Bearer {server.admin_key}"},
            timeout=FORK_TIMEOUT_SECONDS,
        )

    def run(self, template: str, n: int, children: int, dirty_mb: int) -> dict[str, Any]:
        """Measure ``n`` forks of one parent; the answer, with the keys that programs read."""
        samples = Samples()
        with self._client.sandboxes.create(template=template, ttl_seconds=3600) as parent:
            write_memory(parent, dirty_mb)
            for round_number in range(n):
                self._fork(parent, children, samples)
                show(f"{dirty_mb} MB dirty, {children} children: {round_number + 1}/{n}")
            guest_mb = parent.memory_mb
        return {
            "n": n,
            "children": children,
            "dirty_mb": dirty_mb,
            "guest_mb": guest_mb,
            "parent_pause_ms": quantiles(samples.pause),
            "capture_ms": quantiles(samples.capture),
            "child_ready_ms": quantiles(samples.child_ready),
            "wall_ms": quantiles(samples.wall),
            "pss_per_child_mb": quantiles(samples.pss)["p50"],
            "failures": len(samples.failures),
            "failure_messages": samples.failures[:3],
        }

    def _fork(self, parent: Sandbox, children: int, samples: Samples) -> None:
        began = time.perf_counter()
        reply = self._http.post(f"/v1/sandboxes/{parent.id}/fork", json={"count": children})
        wall = (time.perf_counter() - began) * 1e3
        answer = reply.json()
        if not reply.is_success:
            samples.failures.append(str(answer.get("error")))
            return
        try:
            samples.failures += [str(failure) for failure in answer.get("failures", [])]
            samples.wall.append(wall)
            samples.pause.append(answer["parent_pause_ms"])
            samples.capture.append(answer["capture_ms"])
            samples.child_ready += [child["phases_ms"]["total"] for child in answer["sandboxes"]]
            samples.pss += [self._guest_pss_mb(child) for child in answer["children"]]
        finally:
            for child in answer["children"]:
                self._http.delete(f"/v1/sandboxes/{child}")

    def _guest_pss_mb(self, sandbox_id: str) -> float:
        """PSS of the mapping that holds the guest's memory: what the child costs beyond the VMM itself."""
        home = self._server.data_dir / "host" / "sandboxes" / sandbox_id / "vmm"
        pid = json.loads((home / "jail.json").read_text())["vmm"]["pid"]
        kilobytes, inside = 0, False
        for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
            words = line.split()
            if "-" in words[0] and not words[0].endswith(":"):
                inside = words[-1].endswith("/memory")
            elif inside and words[0] == "Pss:":
                kilobytes += int(words[1])
        return kilobytes * 1024 / 1e6


def write_memory(sandbox: Sandbox, megabytes: int) -> None:
    """Have the guest write memory that stays written: random bytes, so that no page of it is zero or shared."""
    command = f"head -c {megabytes * 1_000_000} /dev/urandom > /dev/shm/bench && sync"
    result = sandbox.exec(command, timeout_seconds=600)
    if result.exit_code != 0:
        raise PandastackError(f"the guest could not write {megabytes} MB: {result.stderr}")


def show(line: str) -> None:
    """Progress, on standard error, so that standard output is the answer alone."""
    print(f"\r{line:<60}", end="", file=sys.stderr, flush=True)


def render(answers: list[dict[str, Any]]) -> str:
    """The answers as a Markdown table."""
    heads = [
        "dirty MB",
        "children",
        "pause p50/p99",
        "capture p50",
        "child ready p50",
        "wall p50/p99",
        "PSS/child",
    ]
    rows = [heads, ["---"] * len(heads)]
    rows += [
        [
            str(answer["dirty_mb"]),
            str(answer["children"]),
            f"{answer['parent_pause_ms']['p50']:.0f} / {answer['parent_pause_ms']['p99']:.0f}",
            f"{answer['capture_ms']['p50']:.0f}",
            f"{answer['child_ready_ms']['p50']:.0f}",
            f"{answer['wall_ms']['p50']:.0f} / {answer['wall_ms']['p99']:.0f}",
            f"{answer['pss_per_child_mb']:.1f} MB",
        ]
        for answer in answers
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> int:
    """Measure and print; exit code 1 when anything failed."""
    options = parse()
    data_dir = Path(os.environ.get("PANDASTACK_DATA_DIR", "/var/lib/pandastack"))
    cases = [(options.dirty, options.children)]
    if options.sweep:
        cases = [(dirty, 1) for dirty in SWEEP_DIRTY_MB] + [(25, children) for children in SWEEP_CHILDREN[1:]]
    with ChildServer(data_dir, output=sys.stderr) as server:
        bench = Bench(server)
        answers = [
            bench.run(options.template, max(1, options.n // children), children, dirty)
            for dirty, children in cases
        ]
    print(file=sys.stderr)
    if options.json:
        print(json.dumps(answers if options.sweep else answers[0]))
    else:
        print(render(answers))
    for message in [message for answer in answers for message in answer["failure_messages"]]:
        print(f"bench/fork: {message}", file=sys.stderr)
    return 1 if any(answer["failures"] for answer in answers) else 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument("-n", type=int, default=20, help="children to measure in all, at least one fork")
    parser.add_argument("--children", type=int, default=1, help="children a fork")
    parser.add_argument(
        "--dirty", type=int, default=25, metavar="MB", help="memory that the parent has written"
    )
    parser.add_argument("--sweep", action="store_true", help="over dirty memory and children, as a table")
    parser.add_argument("--template", default="code-interpreter")
    options = parser.parse_args()
    if options.n < 1 or not 1 <= options.children <= 100 or options.dirty < 0:
        parser.error("-n must be 1 or more, --children 1 to 100, --dirty 0 or more")
    return options


if __name__ == "__main__":
    sys.exit(main())
