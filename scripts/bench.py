"""Create, measured at concurrency 1, 4 and 10, as one table. Run it as ``make bench``.

Each column is one run of ``bench/create``, which measures a bare restore of the same snapshot beside ours.
The table and the raw answers are kept in ``bench/results/``.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
CONCURRENCIES = (1, 4, 10)
CREATES = 50
PHASES = ("slot", "disk", "vmm", "load", "guest", "total")
QUANTILES = ("p50", "p90", "p99")


def main() -> int:
    """Measure, print the table, keep it."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    answers = [measure(concurrency) for concurrency in CONCURRENCIES]
    table = render(answers)
    (RESULTS / "create.md").write_text(table)
    print(table)
    return 1 if any(answer["failures"] for answer in answers) else 0


def measure(concurrency: int) -> dict[str, Any]:
    """One run of ``bench/create``."""
    print(f"==> {CREATES} creates, {concurrency} at a time", flush=True)
    command = [sys.executable, str(ROOT / "bench" / "create"), "--json", "-n", str(CREATES)]
    done = subprocess.run(
        [*command, "--concurrency", str(concurrency)], stdout=subprocess.PIPE, text=True, check=True
    )
    (RESULTS / f"create-{concurrency}.json").write_text(done.stdout)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def render(answers: list[dict[str, Any]]) -> str:
    """The answers as a Markdown table: milliseconds, p50 / p90 / p99."""
    heads = ["ms, p50 / p90 / p99", *(f"{answer['concurrency']} at a time" for answer in answers)]
    rows = [heads, ["---"] * len(heads)]
    rows += [
        [f"phase {name}", *(_spread(answer["phases_ms"][name]) for answer in answers)] for name in PHASES
    ]
    for key, name in (
        ("wall_ms", "client's wall clock"),
        ("create_exec_ms", "create + first command"),
        ("bare_restore_ms", "bare restore, no platform"),
    ):
        rows.append([name, *(_spread(answer[key]) for answer in answers)])
    rows.append(["create ÷ bare restore, p50", *(f"{answer['ratio_p50']:.2f}" for answer in answers)])
    rows.append(["platform's own share, p50", *(f"{answer['platform_ms_p50']:.1f}" for answer in answers)])
    rows.append(["failures", *(str(answer["failures"]) for answer in answers)])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    first = answers[0]
    about = f"{first['n']} creates of `{first['template']}` each"
    machine = f"{os.cpu_count()} CPUs, Linux {platform.release()}; {about}."
    return "\n".join([machine, "", *lines, ""])


def _spread(quantiles: dict[str, float]) -> str:
    return " / ".join(f"{quantiles[name]:.0f}" for name in QUANTILES)


if __name__ == "__main__":
    sys.exit(main())
