"""How long a create takes through the whole platform, beside a bare restore of the same snapshot in the same run.

Starts a server of its own on the data directory (``PANDASTACK_DATA_DIR``, default ``/var/lib/pandastack``)
and alternates: C creates at once through the SDK, each followed by one command; C
bare restores at once by hand. Prints every figure as ``{p50, p90, p99}`` in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bare_restore import BareSnapshot, Lane
from pandastack import PandaStack, PandastackError
from pandastackd.child_server import ChildServer
from pandastackd.vmm.qemu_command import KVM, TCG
from quantiles import quantiles

PHASES = ("slot", "disk", "vmm", "load", "guest", "total")
WARM_UP = 3


@dataclass
class Samples:
    """Everything measured, in milliseconds, in the order it was measured."""

    phases: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in PHASES})
    platform: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    create_exec: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def main() -> int:
    """Measure and print; exit code 1 when anything failed."""
    options = parse()
    data_dir = Path(os.environ.get("PANDASTACK_DATA_DIR", "/var/lib/pandastack"))
    with ChildServer(data_dir, output=sys.stderr) as server:
        client = PandaStack(token=server.admin_key, base_url=server.url)
        samples = measure(client, data_dir, options)
    answer = summary(samples, options)
    print(json.dumps(answer) if options.json else render(answer))
    for failure in samples.failures[:5]:
        print(f"bench/create: {failure}", file=sys.stderr)
    return 1 if samples.failures else 0


def measure(client: PandaStack, data_dir: Path, options: argparse.Namespace) -> Samples:
    """Alternate rounds of creates and of bare restores until there are ``n`` of each."""
    snapshot = snapshot_of(client, data_dir, options.template)
    samples = Samples()
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=data_dir / "host" / "staging") as scratch,
        ThreadPoolExecutor(options.concurrency) as pool,
    ):
        lanes = [Lane(snapshot, Path(scratch)) for _ in range(options.concurrency)]
        try:
            for _ in range(WARM_UP):
                create_once(client, options.template, Samples())
                lanes[0].restore_and_ping()
            while len(samples.wall) + len(samples.failures) < options.n:
                together(pool, lanes, lambda _: create_once(client, options.template, samples))
                together(pool, lanes, lambda lane: samples.bare.append(lane.restore_and_ping()))
                if not options.json:
                    print(f"\r{len(samples.wall)}/{options.n}", end="", file=sys.stderr, flush=True)
        finally:
            for lane in lanes:
                lane.close()
    return samples


def create_once(client: PandaStack, template: str, samples: Samples) -> None:
    """One create, one command in it, one delete; the first two are measured."""
    began = time.perf_counter()
    try:
        sandbox = client.sandboxes.create(template=template, ttl_seconds=600)
    except PandastackError as error:
        samples.failures.append(f"create: {error}")
        return
    created = time.perf_counter()
    try:
        if sandbox.exec("true", timeout_seconds=60).exit_code != 0:
            samples.failures.append("the first command failed")
        done = time.perf_counter()
    except PandastackError as error:
        samples.failures.append(f"exec: {error}")
        return
    finally:
        sandbox.kill()
    phases = sandbox.phases_ms
    for name in PHASES:
        samples.phases[name].append(phases[name])
    samples.platform.append(phases["total"] - phases["vmm"] - phases["load"] - phases["guest"])
    samples.wall.append((created - began) * 1e3)
    samples.create_exec.append((done - began) * 1e3)


def together(pool: ThreadPoolExecutor, lanes: list[Lane], action: Callable[[Lane], None]) -> None:
    """Run ``action`` once for each lane, all at the same time."""
    for future in [pool.submit(action, lane) for lane in lanes]:
        future.result()


def snapshot_of(client: PandaStack, data_dir: Path, template: str) -> BareSnapshot:
    """The baked snapshot that the platform restores for ``template``."""
    name = client.templates.get(template).name
    baked: list[tuple[str, Path, dict[str, Any]]] = []
    for path in (data_dir / "host" / "snapshots").glob("*/manifest.json"):
        manifest = json.loads(path.read_text())
        if manifest["kind"] == "template" and manifest["template"] == name:
            baked.append((manifest["created_at"], path.parent, manifest))
    _, directory, manifest = max(baked, key=lambda entry: entry[0])
    accelerator = KVM if manifest["vmm"]["accelerator"] == "kvm" else TCG
    return BareSnapshot(directory, manifest["vcpus"], manifest["memory_mib"], accelerator)


def summary(samples: Samples, options: argparse.Namespace) -> dict[str, Any]:
    """The answer, with the keys that programs read."""
    bare = quantiles(samples.bare)
    phases = {name: quantiles(values) for name, values in samples.phases.items()}
    return {
        "n": options.n,
        "concurrency": options.concurrency,
        "template": options.template,
        "phases_ms": phases,
        "wall_ms": quantiles(samples.wall),
        "create_exec_ms": quantiles(samples.create_exec),
        "bare_restore_ms": bare,
        "ratio_p50": round(phases["total"]["p50"] / bare["p50"], 3) if bare["p50"] else None,
        "platform_ms_p50": quantiles(samples.platform)["p50"],
        "failures": len(samples.failures),
    }


def render(answer: dict[str, Any]) -> str:
    """The answer as a table for people."""
    rows = {**{f"phase {name}": answer["phases_ms"][name] for name in PHASES}}
    rows |= {name: answer[name] for name in ("wall_ms", "create_exec_ms", "bare_restore_ms")}
    lines = [f"\n{'ms':<18}{'p50':>9}{'p90':>9}{'p99':>9}"]
    lines += [
        f"{name:<18}{row['p50']:>9.1f}{row['p90']:>9.1f}{row['p99']:>9.1f}" for name, row in rows.items()
    ]
    lines.append(
        f"create ÷ bare restore, p50: {answer['ratio_p50']}; platform's own share, p50: {answer['platform_ms_p50']} ms"
    )
    lines.append(f"failures: {answer['failures']}")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("-n", type=int, default=50, help="creates to measure")
    parser.add_argument("--concurrency", type=int, default=1, help="creates at the same time")
    parser.add_argument("--template", default="code-interpreter")
    options = parser.parse_args()
    if options.n < 1 or options.concurrency < 1:
        parser.error("-n and --concurrency must be 1 or more")
    return options


if __name__ == "__main__":
    sys.exit(main())
