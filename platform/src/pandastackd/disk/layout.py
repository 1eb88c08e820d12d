"""The data directory: what is where, and making it ready at start.

    <data>/lock                      held by the one server that uses this directory
    <data>/admin.key, secret.key, pandastack.db
    <data>/pandastack.img            sparse XFS, only where the file system cannot reflink; mounted on host/
    <data>/host/                     can reflink
        snapshots/<id>/              manifest.json, memory, state, disk: immutable
        sandboxes/<id>/              record.json, machine-*/, vmm/: one a live sandbox
        staging/                     anything half-made; emptied at start

Everything is closed to other users (0700): VMMs get the files they need by bind mount before they drop
privileges.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

from pandastackd.disk import space
from pandastackd.disk.atomic import empty_directory
from pandastackd.disk.image import LEAST_MIB, create_image, mount_image, unmount_image
from pandastackd.disk.lock import DirectoryLock
from pandastackd.disk.reflink import supports_reflink
from pandastackd.errors import HostFailure, InvalidRequest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_FOREIGN_BUT_FINE = frozenset({"lost+found"})


class DataDir:
    """Names of everything below one data directory, and its preparation.

    Making the object touches nothing. :meth:`prepare` locks and readies the directory, :meth:`release` lets
    go of it.
    """

    def __init__(self, root: Path) -> None:
        # Resolved once: mountinfo speaks of real paths, and a link moved later must not move the data.
        self.root = root.expanduser().resolve()
        self._lock = DirectoryLock(self.lock_file)

    @property
    def lock_file(self) -> Path:
        """The file whose lock says that a server uses this directory; holds that server's pid."""
        return self.root / "lock"

    @property
    def admin_key(self) -> Path:
        """The first administrator's key, mode 0600."""
        return self.root / "admin.key"

    @property
    def secret_key(self) -> Path:
        """The secret that sandboxes' access tokens are derived from, mode 0600."""
        return self.root / "secret.key"

    @property
    def database(self) -> Path:
        """The embedded SQLite database."""
        return self.root / "pandastack.db"

    @property
    def image(self) -> Path:
        """The sparse XFS image; there only where it is needed."""
        return self.root / "pandastack.img"

    @property
    def host(self) -> Path:
        """The part that can reflink."""
        return self.root / "host"

    @property
    def snapshots(self) -> Path:
        """Folder of snapshots: templates' and users' own."""
        return self.host / "snapshots"

    @property
    def sandboxes(self) -> Path:
        """Folder of live sandboxes."""
        return self.host / "sandboxes"

    @property
    def staging(self) -> Path:
        """Folder of half-made things, on the file system of their final places."""
        return self.host / "staging"

    def snapshot(self, snapshot_id: str) -> Path:
        """Folder of one snapshot. Raises InvalidRequest: not a plain name."""
        return self.snapshots / _plain(snapshot_id)

    def sandbox(self, sandbox_id: str) -> Path:
        """Folder of one live sandbox. Raises InvalidRequest: not a plain name."""
        return self.sandboxes / _plain(sandbox_id)

    def prepare(self, *, image_gib: int, reserve_mib: int) -> None:
        """Lock the directory and make it ready: modes, reflink, folders, an empty staging. Safe to repeat.

        Args:
            image_gib: largest size of the XFS image, should one be needed.
            reserve_mib: free space that a new image must leave.

        Raises:
            Conflict: another server uses the directory, or something else is mounted where the image belongs.
            InsufficientStorage: a new directory would not have room; nothing is left behind.
            InvalidRequest: (``not_a_data_dir``) the path holds something that is not ours.
            HostFailure: the image could not be made or mounted, or we may not write there.
        """
        self._refuse_foreign()
        if not self.lock_file.exists():
            space.require_free(self, LEAST_MIB, reserve_mib=reserve_mib, what=f"set up {self.root}")
        try:
            with ExitStack() as undo, space.storage_errors(f"set up {self.root}"):
                self._lock_directory(undo)
                _make_directory(self.host, undo)
                self._make_reflink_capable(image_gib * 1024, reserve_mib, undo)
                for folder in (self.snapshots, self.sandboxes, self.staging):
                    _make_directory(folder, undo)
                self.host.chmod(0o700)
                empty_directory(self.staging)
                undo.pop_all()
        except PermissionError as error:
            raise HostFailure(
                f"cannot set up {self.root}: {error.strerror} on {error.filename}; run as root",
                code="data_dir_denied",
            ) from error

    def release(self) -> None:
        """Let another server use the directory; what is mounted stays mounted. Idempotent."""
        self._lock.release()

    def unmount(self) -> None:
        """Unmount the image, where there is one, and let go of the directory. Idempotent.

        Raises:
            HostFailure: something, such as a running VMM, still uses a file on it.
        """
        if self.image.exists():
            unmount_image(self.image, self.host)
        self.release()

    def free_mib(self) -> int:
        """MiB that can still be written here: with an image, also the file system outside must have them."""
        return space.free_mib(self.host, self.root)

    def _lock_directory(self, undo: ExitStack) -> None:
        for folder in reversed([self.root, *self.root.parents]):
            _make_directory(folder, undo, mode=0o700 if folder == self.root else 0o755)
        fresh = not self.lock_file.exists()
        self._lock.acquire()
        undo.callback(self._lock.release)
        if fresh:
            undo.callback(self.lock_file.unlink, missing_ok=True)
        self.root.chmod(0o700)

    def _make_reflink_capable(self, largest_mib: int, reserve_mib: int, undo: ExitStack) -> None:
        if not self.image.exists():
            if supports_reflink(self.host):
                return
            create_image(self.image, largest_mib=largest_mib, reserve_mib=reserve_mib)
            undo.callback(self.image.unlink)
            undo.callback(unmount_image, self.image, self.host)
        mount_image(self.image, self.host)

    def _refuse_foreign(self) -> None:
        """A mistyped path must never have its modes changed: ``--data-dir /etc`` would lock everybody out."""
        if not self.root.exists() or any(
            path.exists() for path in (self.lock_file, self.database, self.image)
        ):
            return
        foreign = self._foreign_entry()
        if foreign:
            raise InvalidRequest(
                f"{self.root} is not a data directory of ours ({foreign}); name an empty or new folder",
                code="not_a_data_dir",
            )

    def _foreign_entry(self) -> str:
        if not self.root.is_dir():
            return "it is not a folder"
        names = {entry.name for entry in self.root.iterdir()} - _FOREIGN_BUT_FINE
        return f"it holds {min(names)}" if names else ""


def _make_directory(path: Path, undo: ExitStack, *, mode: int = 0o700) -> None:
    """Make ``path`` where it is missing, and have ``undo`` take it away again."""
    if not path.exists():
        path.mkdir(mode=mode)
        undo.callback(path.rmdir)


def _plain(name: str) -> str:
    """``name`` when it cannot lead out of its folder."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest(f"{name!r} is not a name of letters, digits, dots, dashes and underscores")
    return name
