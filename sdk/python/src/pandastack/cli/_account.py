"""``pandastack auth``, ``me`` and ``version``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pandastack._config import config_path, read_config, resolve, write_config
from pandastack._version import __version__
from pandastack.cli._print import print_done, print_facts
from pandastack.cli._session import Output, session

auth = typer.Typer(help="Store or forget an API key.", no_args_is_help=True, rich_markup_mode=None)


@auth.command()
def login(
    ctx: typer.Context,
    api_url: Annotated[
        str | None, typer.Option(help="The server; stored with the key.", show_default=False)
    ] = None,
) -> None:
    """Ask for an API key (or read it from stdin), try it, and store it for this user only."""
    from pandastack._sync._client import PandaStack

    asked = typer.prompt("API key", hide_input=True) if sys.stdin.isatty() else sys.stdin.readline()
    key = str(asked).strip()
    if not key:
        raise typer.BadParameter("no key was given")
    url = resolve(api_url=api_url or session(ctx).api_url, api_key=key).api_url
    with PandaStack(api_url=url, api_key=key) as client:
        account = client.me()
    kept = {name: value for name, value in read_config().items() if name not in _OURS}
    path = write_config({**kept, "api_url": url, "token": key})
    typer.echo(
        f"logged in to {url} as {account.email or account.user_id or 'this key'}; key stored in {path}"
    )


@auth.command()
def logout() -> None:
    """Forget the stored key. The key itself stays valid; `token revoke` ends it."""
    config = read_config()
    if not any(config.get(name) for name in ("token", "api_key", "apiKey")):
        typer.echo("no key is stored")
        return
    write_config(
        {name: value for name, value in config.items() if name not in {"token", "api_key", "apiKey"}}
    )
    typer.echo(f"forgot the key in {config_path()}")


def me(ctx: typer.Context, output: Output = None) -> None:
    """Show who the API key belongs to."""
    print_facts(session(ctx, output), session(ctx).client.me())


def version(ctx: typer.Context, output: Output = None) -> None:
    """Print the version."""
    print_done(session(ctx, output), f"pandastack {__version__}", version=__version__)


_OURS = {"api_url", "apiUrl", "token", "api_key", "apiKey", "expires_at"}
