"""``pandastack shell``: a terminal in a sandbox on this terminal; ``ssh-proxy``'s way of carrying bytes, too."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from pandastack.cli import _values
from pandastack.cli._execute import Cwd, Env, PassThrough, User, status_of
from pandastack.cli._session import SandboxId, session

if TYPE_CHECKING:
    from pandastack._sync._terminal import Terminal

_PIECE = 64 * 1024


def shell(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    command: Annotated[list[str] | None, typer.Argument(metavar="[COMMAND]...", show_default=False)] = None,
    cwd: Cwd = None,
    env: Env = None,
    user: User = None,
) -> None:
    """Open a shell in a sandbox, or run a command in a terminal there, and leave with its exit status.

    When this ends, however it does, so does what runs in the terminal.
    """
    columns, rows = shutil.get_terminal_size()
    line = None if not command else command[0] if len(command) == 1 else shlex.join(command)
    options = _values.process(cwd, env, user)
    opened = session(ctx).sandbox(sandbox_id).terminal(line, rows=rows, cols=columns, **options)
    with opened as terminal, _raw():
        exit_code = carry(terminal, resizes=True)
    raise typer.Exit(status_of(exit_code))


def carry(terminal: Terminal, *, resizes: bool = False) -> int:
    """Stdin to the program and its output to stdout and stderr, byte for byte, until it ends; its exit code."""
    with _Input(terminal, resizes):
        for event in terminal.events():
            _write_all(2 if event.stream == "stderr" else 1, event.data)
    return terminal.exit_code or 0


class _Input:
    """A thread that reads stdin, and the signal that says that the terminal has another size."""

    def __init__(self, terminal: Terminal, resizes: bool) -> None:
        self._terminal = terminal
        self._resizes = resizes and hasattr(signal, "SIGWINCH")
        self._wake, self._waker = os.pipe()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._before: object = None

    def __enter__(self) -> None:
        if self._resizes:
            # The handler only wakes the thread: it may run in the middle of anything.
            self._before = signal.signal(signal.SIGWINCH, lambda *_: os.write(self._waker, b"r"))
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        if self._resizes:
            signal.signal(signal.SIGWINCH, self._before)  # type: ignore[arg-type]
        os.write(self._waker, b"q")
        self._thread.join(1)

    def _run(self) -> None:
        sources = [0, self._wake]
        while True:
            ready, _, _ = select.select(sources, [], [])
            if self._wake in ready:
                asked = os.read(self._wake, 100)
                if b"q" in asked:
                    return
                columns, rows = shutil.get_terminal_size()
                self._terminal.resize(rows=rows, cols=columns)
            if 0 in ready:
                data = os.read(0, _PIECE)
                if data:
                    self._terminal.send(data)
                else:
                    sources.remove(0)
                    self._terminal.end_input()


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    """This terminal passes every key on as it is; nothing changes where stdin is no terminal."""
    if not sys.stdin.isatty():
        yield
        return
    try:
        import termios
        import tty
    except ImportError:
        raise ValueError("this system has no terminals that a shell can be carried to; use `exec`") from None
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0, termios.TCSADRAIN)  # what was typed ahead stays
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def register(app: typer.Typer, group: typer.Typer) -> None:
    """Add this command to ``app``, and to the commands about sandboxes."""
    app.command("shell", cls=PassThrough)(shell)
    group.command("shell", cls=PassThrough)(shell)
