"""The tree of commands."""

from __future__ import annotations

from typing import Annotated

import typer

from pandastack.cli import (
    _account,
    _copy,
    _execute,
    _fs,
    _mcp,
    _network,
    _registries,
    _sandbox,
    _shell,
    _ssh,
    _state,
)
from pandastack.cli._errors import ReportingGroup
from pandastack.cli._session import Output, OutputFormat, Session

app = typer.Typer(
    name="pandastack",
    cls=ReportingGroup,
    help="Run code in microVM sandboxes.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def settings(
    ctx: typer.Context,
    output: Output = None,
    api_url: Annotated[
        str | None,
        typer.Option(
            help="The server; default: PANDASTACK_API, then what `auth login` stored, then this machine.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run code in microVM sandboxes."""
    ctx.obj = Session(output or OutputFormat.table, api_url)


_state.register(_sandbox.group)
_network.register(_sandbox.group)
_execute.register(_sandbox.group)
_shell.register(app, _sandbox.group)
_ssh.register(app, _sandbox.group)
for group, name, short in (
    (_sandbox.group, "sandbox", "sb"),
    (_registries.templates, "template", "tpl"),
    (_registries.snapshots, "snapshot", "snap"),
):
    app.add_typer(group, name=name)
    app.add_typer(group, name=short, hidden=True)
app.add_typer(_fs.group, name="fs")
app.add_typer(_registries.tokens, name="token")
app.add_typer(_account.auth, name="auth")
app.command("cp")(_copy.copy)
app.command("mcp")(_mcp.mcp)
app.command("me")(_account.me)
app.command("whoami", hidden=True)(_account.me)
app.command("version")(_account.version)
