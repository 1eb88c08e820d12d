"""``pandastack cp``: files and folders between this machine and sandboxes, or between two sandboxes."""

from __future__ import annotations

import os
import posixpath
import sys
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from pandastack._models import FileInfo
from pandastack.cli import _values
from pandastack.cli._session import Session, session
from pandastack.cli._values import Remote

if TYPE_CHECKING:
    from pandastack._sync._filesystem import SandboxFilesystem

_SHOWN_FROM_BYTES = 8 * 1024 * 1024


def copy(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SRC", show_default=False)],
    target: Annotated[str, typer.Argument(metavar="DST", show_default=False)],
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Copy folders with all in them.")
    ] = False,
) -> None:
    """Copy files. A path in a sandbox is ID:/path; anything else is on this machine (./a:/b if in doubt)."""
    from_, to = _values.place(source), _values.place(target)
    run = session(ctx)
    if isinstance(from_, Remote) and isinstance(to, Remote):
        _between(run, from_, to)
    elif isinstance(from_, Remote):
        _download(_files(run, from_), from_.path, Path(str(to)), recursive)
    elif isinstance(to, Remote):
        _upload(_files(run, to), Path(from_), to.path, recursive)
    else:
        raise typer.BadParameter("one of SRC and DST must be in a sandbox, as ID:/path")


class Transfer:
    """A progress bar on the terminal, for what is large enough to wait for."""

    def __init__(self, name: str, size: int) -> None:
        self._name, self._size = name, size
        self._bar: Any = None

    def __enter__(self) -> Self:
        if self._size >= _SHOWN_FROM_BYTES and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

            columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
            self._bar = Progress(
                *columns, TransferSpeedColumn(), console=Console(stderr=True), transient=True
            )
            self._task = self._bar.add_task(posixpath.basename(self._name), total=self._size)
            self._bar.start()
        return self

    def reached(self, total: int) -> None:
        """Show that ``total`` bytes are through."""
        if self._bar is not None:
            self._bar.update(self._task, completed=total)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _files(run: Session, place: Remote) -> SandboxFilesystem:
    return run.sandbox(place.sandbox_id).filesystem


def _between(run: Session, source: Remote, target: Remote) -> None:
    here, there = _files(run, source), _files(run, target)
    path = _remote_target(there, posixpath.basename(source.path), target.path)
    with closing(here.read_stream(source.path)) as chunks:
        there.write_stream(path, chunks)


def _upload(files: SandboxFilesystem, source: Path, target: str, recursive: bool) -> None:
    if not source.is_dir():
        _upload_file(files, source, _remote_target(files, source.name, target))
        return
    _demand(recursive, source)
    root = _remote_target(files, source.resolve().name, target)
    for folder, _, names in os.walk(source):
        below = Path(folder).relative_to(source).as_posix()
        for name in sorted(names):
            local = Path(folder) / name
            if local.is_file():
                _upload_file(files, local, posixpath.normpath(posixpath.join(root, below, name)))
            else:
                typer.echo(f"skipped {local}: not a regular file", err=True)


def _upload_file(files: SandboxFilesystem, source: Path, target: str) -> None:
    with Transfer(str(source), source.stat().st_size) as transfer:
        files.upload(source, target, on_progress=transfer.reached)


def _download(files: SandboxFilesystem, source: str, target: Path, recursive: bool) -> None:
    info = files.stat(source)
    if not info.is_dir:
        _download_file(files, source, info.size, target)
        return
    _demand(recursive, source)
    root = (
        target / _safe_name(posixpath.basename(source.rstrip("/")) or "root") if target.is_dir() else target
    )
    folders = {source: root}
    for remote, directories, entries in files.walk(source):
        local = folders.pop(remote)
        local.mkdir(parents=True, exist_ok=True)
        folders |= {entry.path: local / _safe_name(entry.name) for entry in directories}
        for entry in entries:
            _download_file(files, entry.path, entry.size, local / _safe_name(entry.name))


def _download_file(files: SandboxFilesystem, source: str, size: int, target: Path) -> None:
    with Transfer(source, size) as transfer:
        files.download(source, target, on_progress=transfer.reached)


def _remote_target(files: SandboxFilesystem, name: str, target: str) -> str:
    into = target.endswith("/") or _is_directory(files, target)
    return posixpath.join(target, name) if into else target


def _is_directory(files: SandboxFilesystem, path: str) -> bool:
    from pandastack.errors import NotFoundError

    try:
        info: FileInfo = files.stat(path)
    except NotFoundError:
        return False
    return info.is_dir


def _demand(recursive: bool, source: object) -> None:
    if not recursive:
        raise typer.BadParameter(f"{source} is a folder; add -r to copy it with all in it")


def _safe_name(name: str) -> str:
    # Names come from the guest: one that climbs out of the target must not reach this machine's files.
    if name in {"", ".", ".."} or "/" in name or "\\" in name or "\0" in name:
        raise ValueError(
            f"the sandbox names a file {name!r}, which is refused as it could leave the target folder"
        )
    return name
