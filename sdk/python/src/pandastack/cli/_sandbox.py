"""``pandastack sandbox``: make, find, fork and delete."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from pandastack._models import TreeNode
from pandastack.cli import _values
from pandastack.cli._execute import Env
from pandastack.cli._network import AllowOut, DenyOut, NoInternet
from pandastack.cli._print import print_done, print_facts, print_json, print_rows, print_sandboxes
from pandastack.cli._session import Output, SandboxId, session

group = typer.Typer(help="Make and use sandboxes.", no_args_is_help=True, rich_markup_mode=None)

Metadata = Annotated[
    list[str] | None, typer.Option("--metadata", metavar="K=V", help="A label of your own; may be repeated.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only ids.")]


@group.command()
def create(
    ctx: typer.Context,
    template: Annotated[
        str, typer.Option("--template", "-t", help="What to make it from.")
    ] = "code-interpreter",
    ttl: Annotated[
        str | None, typer.Option(metavar="DURATION", help="How long it lives unused: 10m, 2h.")
    ] = None,
    persistent: Annotated[
        bool, typer.Option("--persistent", help="Let it live until it is deleted.")
    ] = False,
    labels: Metadata = None,
    from_snapshot: Annotated[
        str | None, typer.Option(metavar="SNAPSHOT", help="Restore this snapshot.")
    ] = None,
    volume: Annotated[
        list[str] | None, typer.Option("--volume", "--volumes", metavar="NAME[:ro]", help="Attach a volume.")
    ] = None,
    env: Env = None,
    on_timeout: Annotated[
        Literal["delete", "hibernate"] | None, typer.Option(help="What happens when its time is over.")
    ] = None,
    no_internet: NoInternet = False,
    allow_out: AllowOut = None,
    deny_out: DenyOut = None,
    quiet: Quiet = False,
    output: Output = None,
) -> None:
    """Make a sandbox; it is ready for commands when this returns."""
    made = session(ctx, output).client.sandboxes.create(
        template,
        ttl_seconds=None if ttl is None else _values.whole_seconds(ttl),
        persistent=persistent,
        metadata=_values.metadata(labels),
        from_snapshot=from_snapshot,
        volumes=_values.volumes(volume),
        env=_values.environment(env),
        on_timeout=on_timeout,
        network=_values.egress(no_internet, allow_out, deny_out),
    )
    if quiet:
        typer.echo(made.id)
    else:
        print_facts(session(ctx), made)


@group.command("list")
def list_(ctx: typer.Context, quiet: Quiet = False, output: Output = None) -> None:
    """List sandboxes."""
    found = session(ctx, output).client.sandboxes.list()
    if quiet:
        for sandbox in found:
            typer.echo(sandbox.id)
    else:
        print_sandboxes(session(ctx), found)


@group.command()
def get(ctx: typer.Context, sandbox_id: SandboxId, output: Output = None) -> None:
    """Show one sandbox."""
    print_facts(session(ctx, output), session(ctx).client.sandboxes.get(sandbox_id))


@group.command()
def delete(
    ctx: typer.Context,
    sandbox_ids: Annotated[list[str], typer.Argument(metavar="ID...", show_default=False)],
    output: Output = None,
) -> None:
    """End sandboxes and all that is in them."""
    for sandbox_id in sandbox_ids:
        session(ctx, output).client.sandboxes.delete(sandbox_id)
        print_done(session(ctx), f"deleted {sandbox_id}", deleted=sandbox_id)


@group.command()
def fork(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    count: Annotated[int, typer.Option(min=1, help="How many children.")] = 1,
    labels: Metadata = None,
    quiet: Quiet = False,
    output: Output = None,
) -> None:
    """Make sandboxes that go on from this one's memory and disk."""
    _show_children(
        ctx,
        session(ctx, output).client.sandboxes.fork(sandbox_id, _values.metadata(labels), count=count),
        quiet,
    )


@group.command("fork-tree")
def fork_tree(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    count: Annotated[int, typer.Option(min=1, help="How many children.")],
    labels: Metadata = None,
    quiet: Quiet = False,
    output: Output = None,
) -> None:
    """Make forks that belong together, of which one is promoted later."""
    children = session(ctx, output).client.sandboxes.fork_tree(sandbox_id, count, _values.metadata(labels))
    _show_children(ctx, children, quiet)


@group.command()
def promote(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    cleanup_siblings: Annotated[bool, typer.Option("--cleanup-siblings", help="Delete the others.")] = False,
    tree_id: Annotated[str | None, typer.Option(help="The tree; default: the sandbox's own.")] = None,
    output: Output = None,
) -> None:
    """Make one branch of a fork tree a sandbox of its own."""
    done = session(ctx, output).client.sandboxes.promote(
        sandbox_id, cleanup_siblings=cleanup_siblings, tree_id=tree_id
    )
    print_facts(session(ctx), done)


@group.command()
def tree(ctx: typer.Context, sandbox_id: SandboxId, output: Output = None) -> None:
    """Draw the forks that a sandbox belongs to."""
    root = session(ctx, output).sandbox(sandbox_id).tree()
    if session(ctx).as_json:
        print_json(root)
    else:
        for line in _drawn(root, sandbox_id):
            typer.echo(line)


@group.command("preview-url")
def preview_url(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    port: Annotated[int | None, typer.Argument(show_default=False)] = None,
    port_option: Annotated[int | None, typer.Option("--port", help="The same as PORT.")] = None,
    scheme: Annotated[str | None, typer.Option(help="http or https; default: the server's.")] = None,
    output: Output = None,
) -> None:
    """Print the address under which a port of the sandbox is reached."""
    wanted = _values.either(_text(port), _text(port_option), "PORT")
    url = session(ctx, output).sandbox(sandbox_id).preview_url(int(wanted), scheme)
    print_done(session(ctx), url, url=url)


@group.command("preview-urls")
def preview_urls(ctx: typer.Context, sandbox_id: SandboxId, output: Output = None) -> None:
    """Print the addresses of all ports that something listens on."""
    urls = session(ctx, output).sandbox(sandbox_id).preview_urls()
    print_facts(session(ctx), {str(port): url for port, url in urls.items()})


def _show_children(ctx: typer.Context, children: list, quiet: bool) -> None:  # type: ignore[type-arg]
    if quiet:
        for child in children:
            typer.echo(child.id)
    else:
        print_rows(session(ctx), children, ("id", "template", "status", "boot_ms", "metadata"))


def _drawn(node: TreeNode, marked: str, lead: str = "", last: bool | None = None) -> list[str]:
    stem = "" if last is None else "└── " if last else "├── "
    mark = "  <- this one" if node.id == marked else ""
    lines = [f"{lead}{stem}{node.id}  {node.status}{mark}"]
    below = lead if last is None else lead + ("    " if last else "│   ")
    for child in node.children:
        lines += _drawn(child, marked, below, child is node.children[-1])
    return lines


def _text(number: int | None) -> str | None:
    return None if number is None else str(number)
