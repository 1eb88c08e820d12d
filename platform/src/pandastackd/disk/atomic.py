"""Files that are there wholly or not at all, also after a power cut.

The rule everywhere: write beside, fsync, rename, fsync the directory. A reader never sees half of anything,
and what a killed process leaves lies in the staging folder, which is emptied at start.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pandastackd.disk.space import storage_errors
from pandastackd.errors import HostFailure


def write_json_atomically(path: Path, value: Any, *, mode: int = 0o600, durable: bool = True) -> None:
    """Replace ``path`` by ``value`` as JSON (sorted keys, so that equal values are equal files).

    ``durable=False`` skips the fsyncs: whole or not at all for every process, but not across a power cut.
    Right only for what a power cut makes worthless anyway.

    Raises:
        InsufficientStorage: the disk is full; the old file is untouched.
    """
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    write_bytes_atomically(path, (text + "\n").encode(), mode=mode, durable=durable)


def write_bytes_atomically(path: Path, content: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Replace ``path`` by ``content``; permissions are ``mode`` from the first instant the file exists.

    ``durable``: see :func:`write_json_atomically`.

    Raises:
        InsufficientStorage: the disk is full; the old file is untouched.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with storage_errors(f"write {path.name}"):
            fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
            with os.fdopen(fd, "wb") as file:
                os.fchmod(fd, mode)  # whatever the umask took away
                file.write(content)
                file.flush()
                if durable:
                    os.fsync(fd)
            beside.replace(path)
            if durable:
                sync_path(path.parent)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


@contextmanager
def staged(staging: Path, final: Path) -> Iterator[Path]:
    """A private directory below ``staging`` that becomes ``final`` when the block ends well.

    When the block raises, the directory is removed. When ``final`` is there already at the end, ours is
    dropped and the existing one stays: artifacts are immutable and named by what they are, so both are the
    same. ``staging`` and ``final`` must lie on one file system.

    Raises:
        InsufficientStorage: the disk ran full; nothing is left behind.
    """
    directory = staging / f"{final.name}.{secrets.token_hex(6)}"
    with storage_errors(f"make {final.name}"):
        directory.mkdir(mode=0o700)
        try:
            yield directory
            sync_tree(directory)
            publish(directory, final)
        finally:
            remove_tree(directory)


def publish(made: Path, final: Path) -> bool:
    """Rename ``made`` (already synced, same file system) to ``final``, unless it exists; whether it was."""
    if final.exists():
        return False
    try:
        made.rename(final)
    except OSError:
        if final.exists():  # somebody else was faster; rename(2) never replaces a directory that is not empty
            return False
        raise
    sync_path(final.parent)
    return True


def sync_tree(directory: Path) -> None:
    """Make every file and folder below ``directory`` durable."""
    for folder, _, names in os.walk(directory, topdown=False):
        for name in names:
            path = Path(folder, name)
            if stat.S_ISREG(path.lstat().st_mode):
                sync_path(path)
        sync_path(Path(folder))


def sync_path(path: Path) -> None:
    """Make one file's content, or one directory's entries, durable."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_tree(path: Path) -> None:
    """Remove a file or a directory and all below it. Not being there is success; links are removed, not
    followed.

    Raises:
        HostFailure: something is mounted there or another thing keeps it from being removed.
    """
    try:
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        if path.exists():  # a file below vanished under us, so somebody removes it too: go on with the rest
            remove_tree(path)
    except OSError as error:
        raise HostFailure(
            f"cannot remove {path}: {error.strerror}; see what still uses it with `findmnt` or `lsof`",
            code="cannot_remove",
        ) from error


def empty_directory(directory: Path) -> None:
    """Remove everything below ``directory``, not itself.

    Raises:
        HostFailure: something below cannot be removed.
    """
    for entry in directory.iterdir():
        remove_tree(entry)
