"""The command line of the platform itself, for operators. Users' command line is ``pandastack``."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from pydantic import ValidationError

from pandastackd.config import Settings
from pandastackd.errors import PlatformError

app = typer.Typer(
    name="pandastackd",
    help="Runs sandboxes in microVMs on this machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", help="Where everything lives.", envvar="PANDASTACK_DATA_DIR")
]


@app.command()
def serve(
    data_dir: DataDirOption = None,
    listen: Annotated[
        list[str] | None, typer.Option("--listen", help="HOST:PORT of the HTTP API; may be repeated.")
    ] = None,
    templates_dir: Annotated[Path | None, typer.Option(help="Folder of template recipes.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
) -> None:
    """Run the whole platform on this machine until it is told to stop."""
    from pandastackd.serve import serve as run  # here, so that `version` need not load the world

    settings = _settings(data_dir=data_dir, templates_dir=templates_dir, log_level=log_level)
    uvloop.run(run(settings, listen or [settings.listen]))


@app.command()
def doctor(
    data_dir: DataDirOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Check this machine and say what each finding means and how to mend it."""
    from pandastackd.doctor import doctor_command

    raise typer.Exit(doctor_command(_settings(data_dir=data_dir), as_json=as_json))


@app.command("version")
def show_version() -> None:
    """Print the version."""
    typer.echo(version("pandastackd"))


def main() -> None:
    """Entry point. A platform error is one line and exit code 1, never a traceback."""
    try:
        app()
    except PlatformError as error:
        typer.echo(f"pandastackd: {error.message}", err=True)
        sys.exit(1)


def _settings(**flags: Any) -> Settings:
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        problem = error.errors()[0]
        name = "_".join(str(part) for part in problem["loc"][:1])
        raise typer.BadParameter(f"{name} (or PANDASTACK_{name.upper()}): {problem['msg']}") from None


if __name__ == "__main__":
    main()
