"""Local files for downloads: written beside their place and moved there when they are whole."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


class AtomicFile:
    """A file that appears at ``target`` complete or not at all."""

    def __init__(self, target: Path) -> None:
        self._target = target
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name[:64]}.", dir=target.parent)
        self._staged = Path(name)
        self._file = os.fdopen(descriptor, "wb")

    def write(self, chunk: bytes) -> None:
        """Append ``chunk``."""
        self._file.write(chunk)

    def commit(self) -> None:
        """Put the file in its place, with the mode a new file of this user has."""
        self._file.close()
        umask = os.umask(0)
        os.umask(umask)
        self._staged.chmod(0o666 & ~umask)
        self._staged.replace(self._target)

    def discard(self) -> None:
        """Remove what was staged; harmless after ``commit``."""
        with contextlib.suppress(OSError):
            self._file.close()
        self._staged.unlink(missing_ok=True)


def local_target(remote: str, local: str | os.PathLike[str]) -> Path:
    """Where a download of ``remote`` goes: ``local``, or under its own name into that directory."""
    target = Path(local)
    return target / remote.rstrip("/").rpartition("/")[2] if target.is_dir() else target
