"""``pandastack sandbox exec``, ``run-code``, ``logs``: output as it comes, byte for byte, and the status."""

from __future__ import annotations

import shlex
import sys
from contextlib import closing
from typing import Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperCommand

from pandastack._models import ExecOutput
from pandastack._options import ProcessOptions
from pandastack.cli import _values
from pandastack.cli._print import print_json
from pandastack.cli._session import Output, SandboxId, session

Timeout = Annotated[
    str | None,
    typer.Option(metavar="DURATION", help="Kill it after this time; default: the server's limit."),
]

Cwd = Annotated[str | None, typer.Option(metavar="FOLDER", help="Where it runs; default: the user's home.")]
Env = Annotated[
    list[str] | None, typer.Option("--env", "-e", metavar="NAME=VALUE", help="A variable; may be repeated.")
]
User = Annotated[str | None, typer.Option("--user", "-u", metavar="NAME", help="Who runs it.")]

Language = Annotated[
    str,
    typer.Option(help="python, bash, sh, shell, javascript or node; with kernels: typescript, r or java."),
]


class PassThrough(TyperCommand):
    """A command whose last arguments belong to another: what follows the id is not parsed for our options.

    ``exec ID ls -la`` needs no ``--``. Our options may stand before the id, or after it if a ``--`` follows.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, at first taking all that follows the id for the other command's."""
        given = list(args)
        ctx.allow_interspersed_args = False
        rest = super().parse_args(ctx, args)
        words = ctx.params.get("command") or ("",)
        if words[0].startswith("-"):
            ctx.params.clear()
            ctx.allow_interspersed_args = True
            rest = super().parse_args(ctx, given)
        return rest


def exec_(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    command: Annotated[list[str], typer.Argument(metavar="COMMAND...", show_default=False)],
    timeout: Timeout = None,
    cwd: Cwd = None,
    env: Env = None,
    user: User = None,
    output: Output = None,
) -> None:
    """Run a command in a sandbox and leave with its exit status.

    One argument is shell text, several are quoted: `exec ID 'ls | wc -l'`, `exec ID touch 'a b'`. Output
    comes as it is printed; with -o json at the end, as one object. Status 124: it ran out of its time.
    """
    line = command[0] if len(command) == 1 else shlex.join(command)
    _run(ctx, sandbox_id, line, timeout, output, _values.process(cwd, env, user))


def run_code(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    code: Annotated[str, typer.Argument(help="The code; - reads it from stdin.", show_default=False)],
    language: Annotated[
        str, typer.Option(help="python, bash, sh, shell, javascript or node; typescript, r or java.")
    ] = "python",
    timeout: Timeout = None,
    output: Output = None,
) -> None:
    """Run code in a fresh interpreter in a sandbox and leave with its exit status."""
    from pandastack import _wire

    text = sys.stdin.read() if code == "-" else code
    if language in _wire.KERNEL_LANGUAGES:
        _run_in_kernel(ctx, sandbox_id, text, language, timeout, output)
    line = _wire.inline_code(text, language)
    if line is None:
        path, line = _wire.code_file(language)
        session(ctx).sandbox(sandbox_id).filesystem.write(path, text)
    _run(ctx, sandbox_id, line, timeout, output, {})


def logs(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    stream: Annotated[Literal["both", "stdout", "stderr"], typer.Option(help="Which.")] = "both",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
) -> None:
    """Print a sandbox's log."""
    with closing(session(ctx).sandbox(sandbox_id).logs(stream, follow)) as lines:
        for line in lines:
            typer.echo(line)


def register(group: typer.Typer) -> None:
    """Add these commands to ``group``."""
    group.command("exec", cls=PassThrough)(exec_)
    group.command("run-code")(run_code)
    group.command("logs")(logs)


def _run_in_kernel(
    ctx: typer.Context, sandbox_id: str, code: str, language: str, timeout: str | None, output: Any
) -> NoReturn:
    found = session(ctx, output)
    limit = None if timeout is None else _values.seconds(timeout)
    result = found.sandbox(sandbox_id).run_code(code, language, limit)
    if found.as_json:
        print_json(result)
    else:
        typer.echo(result.stdout, nl=False)
        typer.echo(result.stderr, nl=False, err=True)
    raise typer.Exit(status_of(result.exit_code))


def _run(
    ctx: typer.Context,
    sandbox_id: str,
    line: str,
    timeout: str | None,
    output: Any,
    options: ProcessOptions,
) -> None:
    found = session(ctx, output)
    limit = None if timeout is None else _values.seconds(timeout)
    sandbox = found.sandbox(sandbox_id)
    if found.as_json:
        result = sandbox.exec(line, limit, **options)
        print_json(result)
        raise typer.Exit(status_of(result.exit_code))
    sinks = {"stdout": typer.get_binary_stream("stdout"), "stderr": typer.get_binary_stream("stderr")}
    with closing(sandbox.exec_events(line, limit, **options)) as events:
        for event in events:
            if isinstance(event, ExecOutput):
                sink = sinks[event.stream]
                sink.write(event.data)
                sink.flush()
            else:
                raise typer.Exit(status_of(event.exit_code))


def status_of(exit_code: int) -> int:
    """The exit status that tells a shell how a command in a sandbox ended."""
    # A negative code names the signal that ended the command, which shells tell as 128 + its number.
    return 128 - exit_code if exit_code < 0 else exit_code & 0xFF
