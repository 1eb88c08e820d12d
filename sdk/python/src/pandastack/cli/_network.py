"""``pandastack sandbox``: where a sandbox may connect to."""

from __future__ import annotations

from typing import Annotated

import typer

from pandastack.cli._print import print_facts
from pandastack.cli._session import Output, SandboxId, session

NoInternet = Annotated[
    bool, typer.Option("--no-internet", help="Deny every destination that is not allowed by name.")
]
AllowOut = Annotated[
    list[str] | None,
    typer.Option(metavar="NETWORK", help="A destination to allow, also where it is denied; may be repeated."),
]
DenyOut = Annotated[
    list[str] | None, typer.Option(metavar="NETWORK", help="A destination to deny; may be repeated.")
]


def network(ctx: typer.Context, sandbox_id: SandboxId, output: Output = None) -> None:
    """Show what a sandbox's network may do."""
    print_facts(session(ctx, output), session(ctx).sandbox(sandbox_id).network())


def set_network(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    no_internet: NoInternet = False,
    allow_out: AllowOut = None,
    deny_out: DenyOut = None,
    output: Output = None,
) -> None:
    """Change where a sandbox may connect to, as a whole; what is left out is cleared."""
    changed = (
        session(ctx, output)
        .sandbox(sandbox_id)
        .set_network(internet=not no_internet, allow_out=allow_out or (), deny_out=deny_out or ())
    )
    print_facts(session(ctx), changed)


def register(group: typer.Typer) -> None:
    """Add these commands to ``group``."""
    for command in (network, set_network):
        group.command(command.__name__.replace("_", "-"))(command)
