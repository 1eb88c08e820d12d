"""Reflink clones: a copy of a file that shares its blocks until one side is written (``FICLONE``).

A clone costs metadata only, keeps holes as holes, and is what makes a sandbox's disk and a snapshot's memory
cheap. Nothing here falls back to copying: a silent full copy would turn milliseconds into seconds and
admission into a lie.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
from pathlib import Path

from pandastackd.disk.space import storage_errors
from pandastackd.errors import HostFailure

FICLONE = 0x40049409  # _IOW(0x94, 9, int), <linux/fs.h>
FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02
_BLOCK_BYTES = 512  # the unit of st_blocks, whatever the file system's own block size is
_COPY_BYTES = 1024 * 1024
_PROBE_BYTES = 64 * 1024
_CANNOT_CLONE = frozenset(
    {errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EXDEV, errno.ENOSYS, errno.EPERM}
)


def clone(source: Path, target: Path, *, mode: int = 0o600) -> None:
    """Make ``target`` a reflink clone of ``source``; nothing is left at ``target`` when it fails.

    ``target`` must not exist yet. Both must lie on one reflink-capable file system.

    Raises:
        InsufficientStorage: the file system is full.
        HostFailure: (``no_reflink``) the file system cannot clone, or the files lie on two file systems.
        FileNotFoundError, FileExistsError: the source is missing, the target is there already.
    """
    with storage_errors(f"clone {source.name}"):
        source_fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            target_fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
            try:
                fcntl.ioctl(target_fd, FICLONE, source_fd)
            except OSError as error:
                target.unlink(missing_ok=True)
                if error.errno in _CANNOT_CLONE:
                    raise HostFailure(
                        f"cannot clone {source} to {target} ({error.strerror}): the file system does not"
                        " share blocks between files; `pandastackd doctor` says how to mend it",
                        code="no_reflink",
                    ) from error
                raise
            finally:
                os.close(target_fd)
        finally:
            os.close(source_fd)


def import_file(source: Path, target: Path) -> None:
    """Bring a file in from another file system: a clone where blocks can be shared, else a copy that keeps holes.

    For what is made once and lives elsewhere (a built root file system in the cache). Nothing is left at
    ``target`` when it fails, and ``target`` must not exist yet.

    Raises:
        InsufficientStorage: the file system is full.
    """
    try:
        clone(source, target)
    except HostFailure:
        with storage_errors(f"copy {source.name}"):
            try:
                _copy_sparse(source, target)
            except BaseException:
                target.unlink(missing_ok=True)
                raise


def _copy_sparse(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("xb") as writer:
        target.chmod(0o600)
        size = os.fstat(reader.fileno()).st_size
        writer.truncate(size)
        position = 0
        while position < size:
            try:
                position = os.lseek(reader.fileno(), position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                    return
                raise
            end = os.lseek(reader.fileno(), position, os.SEEK_HOLE)
            while position < end:
                chunk = os.pread(reader.fileno(), min(_COPY_BYTES, end - position), position)
                position += os.pwrite(writer.fileno(), chunk, position)


def supports_reflink(directory: Path) -> bool:
    """Whether files in ``directory`` can really be cloned: it clones a small one and reads it back.

    Raises:
        InsufficientStorage: not even the small file could be written.
        OSError: the directory cannot be written.
    """
    token = secrets.token_hex(8)
    source, target = directory / f".reflink-{token}.a", directory / f".reflink-{token}.b"
    content = os.urandom(_PROBE_BYTES)
    try:
        with storage_errors("try a reflink clone"):
            source.write_bytes(content)
        clone(source, target)
        return target.read_bytes() == content
    except HostFailure as error:
        if error.code == "no_reflink":
            return False
        raise
    finally:
        source.unlink(missing_ok=True)
        target.unlink(missing_ok=True)


def allocated_bytes(path: Path) -> int:
    """Bytes of storage that ``path`` refers to: holes are not counted, blocks shared with a clone are."""
    return path.stat().st_blocks * _BLOCK_BYTES


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Give the blocks of ``length`` bytes at ``offset`` back to the file system; they read as zeros
    afterwards.

    Raises:
        OSError: the file system cannot punch holes, or the range is not valid.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    if libc.fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
