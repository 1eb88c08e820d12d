"""``pandastack sandbox``: the commands that change a sandbox's state or time to live."""

from __future__ import annotations

from typing import Annotated

import typer

from pandastack.cli import _values
from pandastack.cli._print import print_done, print_facts
from pandastack.cli._session import Output, SandboxId, session


def pause(ctx: typer.Context, sandbox_id: SandboxId, output: Output = None) -> None:
    """Freeze a sandbox in memory."""
    session(ctx, output).sandbox(sandbox_id).pause()
    print_done(session(ctx), f"pause {sandbox_id}", id=sandbox_id, done="pause")


def resume(ctx: typer.Context, sandbox_id: SandboxId, output: Output = None) -> None:
    """Let a paused sandbox run on."""
    session(ctx, output).sandbox(sandbox_id).resume()
    print_done(session(ctx), f"resume {sandbox_id}", id=sandbox_id, done="resume")


def hibernate(ctx: typer.Context, sandbox_id: SandboxId, output: Output = None) -> None:
    """Put a sandbox's memory to disk and free the host's."""
    session(ctx, output).sandbox(sandbox_id).hibernate()
    print_done(session(ctx), f"hibernate {sandbox_id}", id=sandbox_id, done="hibernate")


def wake(ctx: typer.Context, sandbox_id: SandboxId, output: Output = None) -> None:
    """Bring a hibernated sandbox back."""
    session(ctx, output).sandbox(sandbox_id).wake()
    print_done(session(ctx), f"wake {sandbox_id}", id=sandbox_id, done="wake")


def snapshot(ctx: typer.Context, sandbox_id: SandboxId, output: Output = None) -> None:
    """Capture memory, device state and disk; prints the snapshot's id."""
    made = session(ctx, output).sandbox(sandbox_id).snapshot()
    print_done(session(ctx), made, id=made, sandbox_id=sandbox_id)


def rollback(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    snapshot_id: Annotated[str, typer.Argument(metavar="SNAPSHOT", show_default=False)],
    output: Output = None,
) -> None:
    """Return a sandbox to what it was at a snapshot."""
    session(ctx, output).sandbox(sandbox_id).rollback(snapshot_id)
    print_done(
        session(ctx), f"rolled {sandbox_id} back to {snapshot_id}", id=sandbox_id, snapshot_id=snapshot_id
    )


def lifecycle(ctx: typer.Context, sandbox_id: SandboxId, output: Output = None) -> None:
    """Show how long a sandbox may live."""
    print_facts(session(ctx, output), session(ctx).sandbox(sandbox_id).lifecycle())


def set_ttl(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    ttl: Annotated[str | None, typer.Argument(metavar="DURATION", show_default=False)] = None,
    ttl_option: Annotated[str | None, typer.Option("--ttl", help="The same as DURATION.")] = None,
    output: Output = None,
) -> None:
    """Set how long a sandbox lives unused."""
    seconds = _values.whole_seconds(_values.either(ttl, ttl_option, "DURATION"))
    print_facts(session(ctx, output), session(ctx).sandbox(sandbox_id).set_ttl(seconds))


def set_persistent(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    persistent: Annotated[str | None, typer.Argument(metavar="true|false", show_default=False)] = None,
    option: Annotated[str | None, typer.Option("--persistent", help="The same as true|false.")] = None,
    output: Output = None,
) -> None:
    """Let a sandbox live until it is deleted, or take that back."""
    wanted = _values.yes_or_no(_values.either(persistent, option, "true or false"))
    print_facts(session(ctx, output), session(ctx).sandbox(sandbox_id).set_persistent(wanted))


def register(group: typer.Typer) -> None:
    """Add these commands to ``group``."""
    for command in (pause, resume, hibernate, wake, snapshot, rollback, lifecycle, set_ttl, set_persistent):
        group.command(command.__name__.replace("_", "-"))(command)
