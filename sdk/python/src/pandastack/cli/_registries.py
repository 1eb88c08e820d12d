"""``pandastack template``, ``token`` and ``snapshot``: lists to look at and tidy."""

from __future__ import annotations

from typing import Annotated

import typer

from pandastack.cli import _values
from pandastack.cli._print import print_done, print_facts, print_json, print_rows
from pandastack.cli._session import Output, session

templates = typer.Typer(help="What sandboxes can be made from.", no_args_is_help=True, rich_markup_mode=None)
tokens = typer.Typer(help="API keys.", no_args_is_help=True, rich_markup_mode=None)
snapshots = typer.Typer(help="Captured sandboxes.", no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]
SnapshotId = Annotated[str, typer.Argument(metavar="ID", show_default=False)]


@templates.command("list")
def list_templates(ctx: typer.Context, output: Output = None) -> None:
    """List templates."""
    found = session(ctx, output).client.templates.list()
    print_rows(session(ctx), found, ("name", "cpu", "memory_mb", "size_bytes", "description"))


@templates.command("get")
def get_template(ctx: typer.Context, name: Name, output: Output = None) -> None:
    """Show one template."""
    print_facts(session(ctx, output), session(ctx).client.templates.get(name))


@tokens.command("list")
def list_tokens(ctx: typer.Context, output: Output = None) -> None:
    """List API keys by prefix; never the keys themselves."""
    found = session(ctx, output).client.tokens.list()
    print_rows(session(ctx), found, ("prefix", "name", "created_at", "expires_at"))


@tokens.command("create")
def create_token(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="NAME", show_default=False)] = None,
    label: Annotated[str | None, typer.Option("--label", help="The same as NAME.")] = None,
    expires_in_days: Annotated[int | None, typer.Option(min=1, help="Default: it does not expire.")] = None,
    output: Output = None,
) -> None:
    """Make an API key. It is shown this once."""
    made = session(ctx, output).client.tokens.create(_values.either(name, label, "NAME"), expires_in_days)
    if session(ctx).as_json:
        print_json(made)
    else:
        typer.echo(made.token or "")
        typer.echo("Keep this key: it is not shown again.", err=True)


@tokens.command("revoke")
def revoke_token(
    ctx: typer.Context,
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", show_default=False)],
    output: Output = None,
) -> None:
    """End an API key."""
    session(ctx, output).client.tokens.revoke(prefix)
    print_done(session(ctx), f"revoked {prefix}", revoked=prefix)


@snapshots.command("list")
def list_snapshots(
    ctx: typer.Context,
    sandbox_id: Annotated[str | None, typer.Option(help="Only those of this sandbox.")] = None,
    output: Output = None,
) -> None:
    """List snapshots."""
    found = session(ctx, output).client.snapshots.list(sandbox_id=sandbox_id)
    print_rows(session(ctx), found, ("id", "sandbox_id", "template", "size_bytes", "created_at"))


@snapshots.command("get")
def get_snapshot(ctx: typer.Context, snapshot_id: SnapshotId, output: Output = None) -> None:
    """Show one snapshot."""
    print_facts(session(ctx, output), session(ctx).client.snapshots.get(snapshot_id))


@snapshots.command("delete")
def delete_snapshot(ctx: typer.Context, snapshot_id: SnapshotId, output: Output = None) -> None:
    """Remove a snapshot."""
    session(ctx, output).client.snapshots.delete(snapshot_id)
    print_done(session(ctx), f"deleted {snapshot_id}", deleted=snapshot_id)
