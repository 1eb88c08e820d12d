"""What a fork costs: the parent's pause, the capture, each child until it answers, and the memory an idle child holds.

Starts a server of its own on the data directory (``PANDASTACK_DATA_DIR``, default ``/var/lib/pandastack``), makes one
parent, has it write ``--dirty`` MB of memory, and forks it into ``--children`` children until ``-n`` are made. With
``--sweep`` it does so over a range of dirty memory, of children and of guest sizes, and prints a table: what grows with
what. The sweep bakes a larger guest for itself, removes it afterwards, and ends within ``--seconds``, with fewer rounds
on a slow machine but at least one for each row.

Times are milliseconds as ``{p50, p90, p99}``; memory is MB (10^6 bytes) of proportional set size of the guest's memory:
what an idle child costs beside the VMM itself.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

import big_guest
from pandastack import PandaStack, PandastackError, Sandbox
from pandastackd.child_server import ChildServer
from quantiles import quantiles

FORK_TIMEOUT_SECONDS = 600.0
IDLE_SECONDS = 1.0
SWEEP_ROUNDS = 10


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    template: str
    dirty_mb: int
    children: int


SWEEP = (
    *(Case("", dirty, 1) for dirty in (10, 25, 100, 250)),
    *(Case("", 25, children) for children in (10, 50)),
    # Equal rows in a guest of another size: the capture costs what was written, not what there is.
    *(Case(big_guest.NAME, dirty, 1) for dirty in (25, 250, 1000)),
)
"""What a sweep measures; no template means the one asked for."""


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

    def run(self, case: Case, rounds: int, *, until: float = math.inf) -> dict[str, Any]:
        """Measure ``rounds`` forks of one parent, but none after the first once ``until`` (monotonic) has passed.

        Returns:
            The answer, with the keys that programs read.
        """
        samples = Samples()
        done = 0
        with self._client.sandboxes.create(template=case.template, ttl_seconds=3600) as parent:
            show(f"{parent.memory_mb} MB guest: writing {case.dirty_mb} MB")
            write_memory(parent, case.dirty_mb)
            while done < rounds and (done == 0 or time.monotonic() < until):
                self._fork(parent, case.children, samples)
                done += 1
                show(
                    f"{parent.memory_mb} MB guest, {case.dirty_mb} MB dirty, {case.children} children: {done}/{rounds}"
                )
            guest_mb = parent.memory_mb
        return {
            "n": done * case.children,
            "children": case.children,
            "dirty_mb": case.dirty_mb,
            "guest_mb": guest_mb,
            "parent_pause_ms": quantiles(samples.pause),
            "capture_ms": quantiles(samples.capture),
            "child_ready_ms": quantiles(samples.child_ready),
            "wall_ms": quantiles(samples.wall),
            "wall_per_child_ms": quantiles([wall / case.children for wall in samples.wall]),
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
            time.sleep(IDLE_SECONDS)
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
        "guest MB",
        "dirty MB",
        "children",
        "pause p50/p99",
        "capture p50",
        "child ready p50",
        "wall p50/p99",
        "wall/child p50",
        "PSS/child",
    ]
    rows = [heads, ["---"] * len(heads)]
    rows += [
        [
            str(answer["guest_mb"]),
            str(answer["dirty_mb"]),
            str(answer["children"]),
            f"{answer['parent_pause_ms']['p50']:.0f} / {answer['parent_pause_ms']['p99']:.0f}",
            f"{answer['capture_ms']['p50']:.0f}",
            f"{answer['child_ready_ms']['p50']:.0f}",
            f"{answer['wall_ms']['p50']:.0f} / {answer['wall_ms']['p99']:.0f}",
            f"{answer['wall_per_child_ms']['p50']:.0f}",
            f"{answer['pss_per_child_mb']:.1f} MB",
        ]
        for answer in answers
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> int:
    """Measure and print; exit code 1 when anything failed."""
    options = parse()
    data_dir = Path(os.environ.get("PANDASTACK_DATA_DIR", "/var/lib/pandastack"))
    if options.sweep:
        answers = sweep(data_dir, options.template, options.seconds)
    else:
        case = Case(options.template, options.dirty, options.children)
        with ChildServer(data_dir, output=sys.stderr) as server:
            answers = [Bench(server).run(case, -(-options.n // options.children))]
    print(file=sys.stderr)
    if options.json:
        print(json.dumps(answers if options.sweep else answers[0]))
    else:
        print(render(answers))
    for message in [message for answer in answers for message in answer["failure_messages"]]:
        print(f"bench/fork: {message}", file=sys.stderr)
    return 1 if any(answer["failures"] for answer in answers) else 0


def sweep(data_dir: Path, template: str, seconds: float) -> list[dict[str, Any]]:
    """All rows; each may use its share of the time that is left, so that quick ones leave more to slow ones."""
    end = time.monotonic() + seconds
    answers: list[dict[str, Any]] = []
    with big_guest.templates() as folder:
        server = ChildServer(data_dir, output=sys.stderr, env={"PANDASTACK_TEMPLATES_DIR": str(folder)})
        try:
            with server:
                bench = Bench(server)
                for number, case in enumerate(SWEEP):
                    now = time.monotonic()
                    share = (end - now) / (len(SWEEP) - number)
                    case = replace(case, template=case.template or template)
                    answers.append(bench.run(case, max(1, SWEEP_ROUNDS // case.children), until=now + share))
        finally:
            big_guest.remove(data_dir)
    return answers


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
    parser.add_argument(
        "--sweep", action="store_true", help="over dirty memory, children and guest sizes, instead of one row"
    )
    parser.add_argument("--seconds", type=float, default=240.0, help="how long a sweep may measure")
    parser.add_argument("--template", default="code-interpreter")
    options = parser.parse_args()
    if options.n < 1 or options.seconds <= 0 or not 1 <= options.children <= 100 or options.dirty < 0:
        parser.error("-n must be 1 or more, --children 1 to 100, --dirty 0 or more, --seconds more than 0")
    return options


if __name__ == "__main__":
    sys.exit(main())
