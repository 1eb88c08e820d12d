"""What one run of the command works with: the client, and how results are printed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pandastack._config import resolve

if TYPE_CHECKING:
    from pandastack._sync._client import PandaStack
    from pandastack._sync._sandbox import Sandbox


class OutputFormat(StrEnum):
    """How results are printed."""

    table = "table"
    json = "json"


Output = Annotated[
    OutputFormat | None,
    typer.Option("--output", "-o", help="Print results as a table for people or as JSON for programs."),
]
SandboxId = Annotated[str, typer.Argument(metavar="ID", help="The sandbox.", show_default=False)]


@dataclass
class Session:
    """One run.

    Attributes:
        output: how results are printed.
        api_url: the server named on the command line, if one was.
    """

    output: OutputFormat = OutputFormat.table
    api_url: str | None = None

    @property
    def as_json(self) -> bool:
        """Whether a program reads the results."""
        return self.output is OutputFormat.json

    @cached_property
    def client(self) -> PandaStack:
        """The client, made when first needed. On the server's own machine root needs no key of its own."""
        from pandastack._sync._client import PandaStack

        settings = resolve(api_url=self.api_url)
        key = settings.api_key or (admin_key() if settings.is_loopback else None)
        return PandaStack(api_url=settings.api_url, api_key=key)

    def sandbox(self, sandbox_id: str) -> Sandbox:
        """A sandbox to act on, without asking the server for it first."""
        from pandastack._sync._sandbox import Sandbox

        return Sandbox.from_dict({"id": sandbox_id}, self.client)


def admin_key() -> str | None:
    """The key that the server left for root in its data directory, when this user may read it."""
    data_dir = os.environ.get("PANDASTACK_DATA_DIR") or "/var/lib/pandastack"
    try:
        return (Path(data_dir) / "admin.key").read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        return None


def session(ctx: typer.Context, output: OutputFormat | None = None) -> Session:
    """This run's session; a command's own ``-o`` goes before the global one."""
    found = ctx.find_object(Session) or ctx.ensure_object(Session)
    if output is not None:
        found.output = output
    return found
