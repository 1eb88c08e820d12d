"""One place where errors become a line on stderr and an exit status; no command prints a traceback.

0    done, or the exit status of the command that ran in the sandbox
1    an error, told on stderr
2    wrong usage
124  the command in the sandbox ran out of its time
130  interrupted
"""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from pandastack.errors import ForkIncomplete, PandastackError, SandboxTimeout

TIMED_OUT = 124


class ReportingGroup(TyperGroup):
    """The root of all commands: turns what the SDK and the file system raise into a message and a status."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except PandastackError as error:
            complain(error)
            raise typer.Exit(TIMED_OUT if isinstance(error, SandboxTimeout) else 1) from error
        except BrokenPipeError:
            raise
        except (OSError, ValueError) as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error


def complain(error: PandastackError) -> None:
    """One line for people, with what a bug report needs behind it."""
    facts = [
        f"{name} {value}" for name, value in (("code", error.code), ("request", error.request_id)) if value
    ]
    typer.echo(f"error: {error.message}" + (f" ({', '.join(facts)})" if facts else ""), err=True)
    if isinstance(error, ForkIncomplete) and error.children:
        typer.echo("these children were made: " + " ".join(child.id for child in error.children), err=True)
