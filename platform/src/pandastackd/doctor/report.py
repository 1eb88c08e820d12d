"""What the doctor found, as a table for people or JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pandastackd.config import Settings
from pandastackd.doctor.finding import Finding, Status
from pandastackd.doctor.run import run_doctor

_COLOURS = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "bold red"}


def doctor_command(settings: Settings, *, as_json: bool = False, console: Console | None = None) -> int:
    """Run the doctor, print what it found, and return the exit code: 1 only when something fails."""
    console = console or Console()
    findings = run_doctor(settings)
    if as_json:
        console.out(json.dumps([finding.as_dict() for finding in findings], indent=2), highlight=False)
    else:
        console.print(_table(findings))
        console.print(_verdict(findings))
    return 1 if any(finding.status is Status.FAIL for finding in findings) else 0


def _table(findings: Sequence[Finding]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=True, header_style="bold")
    table.add_column("check", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("what it means, and how to mend it", overflow="fold")
    for finding in findings:
        text = escape(finding.meaning)
        if finding.remedy:
            text += f"\n[dim]→ {escape(finding.remedy)}[/dim]"
        table.add_row(finding.name, f"[{_COLOURS[finding.status]}]{finding.status}[/]", text)
    return table


def _verdict(findings: Sequence[Finding]) -> str:
    bad = [finding.name for finding in findings if finding.status is Status.FAIL]
    limits = [finding.name for finding in findings if finding.status is Status.WARN]
    if bad:
        return f"\n[bold red]PandaStack cannot run here yet[/]: mend {', '.join(bad)}."
    if limits:
        return f"\n[green]PandaStack runs here[/], with limits: {', '.join(limits)}."
    return "\n[green]PandaStack runs here.[/]"
