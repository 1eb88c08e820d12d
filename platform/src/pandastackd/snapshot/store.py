"""The snapshots of one host: made in staging, published by rename, read strictly, deleted at any time.

    <root>/<id>/{manifest.json,memory,state,disk}

The directory is the truth; nothing is kept beside it but a cache of manifests, which never change. Whoever runs on a
snapshot has hard links and clones of its files, so deleting one never takes anything from a running sandbox.
"""

from __future__ import annotations

import builtins
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pandastackd.disk.atomic import publish, remove_tree, sync_tree, write_json_atomically
from pandastackd.disk.reflink import allocated_bytes
from pandastackd.disk.space import storage_errors
from pandastackd.errors import Conflict, HostFailure, NotFound
from pandastackd.snapshot.manifest import (
    DISK,
    FILES,
    MANIFEST,
    MEMORY,
    NETWORK_VERSION,
    STATE,
    Manifest,
    VmmRecord,
    check_files,
    read_manifest,
)
from pandastackd.snapshot.unstoppable import in_thread
from pandastackd.vmm.driver import VmmIdentity

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A published snapshot."""

    directory: Path
    manifest: Manifest

    @property
    def id(self) -> str:
        """Its id, also the name of its directory."""
        return self.manifest.id

    @property
    def memory(self) -> Path:
        """Guest memory, sparse; mapped privately by every machine restored from it."""
        return self.directory / MEMORY

    @property
    def state(self) -> Path:
        """Device state, in the VMM's own format."""
        return self.directory / STATE

    @property
    def disk(self) -> Path:
        """The disk at the same instant; cloned for every machine restored from it."""
        return self.directory / DISK

    def size_bytes(self) -> int:
        """Bytes of storage it refers to; what it shares with other snapshots is counted here too."""
        return sum(allocated_bytes(self.directory / name) for name in FILES)


class SnapshotStore:
    """The snapshots below ``root``; half-made ones live below ``staging``, on the same file system."""

    def __init__(self, root: Path, staging: Path) -> None:
        self._root = root
        self._staging = staging
        self._known: dict[str, Snapshot] = {}

    @asynccontextmanager
    async def draft(self, snapshot_id: str) -> AsyncIterator[Path]:
        """A private directory to capture into. Removed at the block's end unless it was published.

        Raises:
            Conflict: there is a snapshot of that id.
            InsufficientStorage: the disk is full.
        """
        final = self._path(snapshot_id)
        if final.exists():
            raise Conflict(f"snapshot {snapshot_id} exists already; choose another id or delete it")
        directory = self._staging / f"{snapshot_id}.{secrets.token_hex(6)}"
        with storage_errors(f"begin snapshot {snapshot_id}"):
            directory.mkdir(mode=0o700)
        try:
            yield directory
        finally:
            await in_thread(remove_tree, directory)

    async def publish(self, draft: Path, manifest: Manifest, *, durable: bool = True) -> Snapshot:
        """Make a draft the snapshot that ``manifest`` describes, wholly or not at all.

        ``durable=False`` spares the flush to disk: right for what a power cut makes worthless anyway, like
        the artifact that the children of a fork start from.

        Raises:
            Conflict: somebody published that id meanwhile.
            HostFailure: (``snapshot_damaged``) the files are not what the manifest says.
            InsufficientStorage: the disk is full.
        """
        return await in_thread(self._publish, draft, manifest, durable)

    def _publish(self, draft: Path, manifest: Manifest, durable: bool) -> Snapshot:
        final = self._path(manifest.id)
        check_files(manifest, draft)
        with storage_errors(f"publish snapshot {manifest.id}"):
            for name in FILES:
                # Nothing may ever write to them again: every machine restored from them shares them.
                (draft / name).chmod(0o444)
            write_json_atomically(draft / MANIFEST, manifest.to_json(), durable=durable)
            if durable:
                sync_tree(draft)
            if not publish(draft, final):
                raise Conflict(f"snapshot {manifest.id} exists already; choose another id or delete it")
        snapshot = Snapshot(final, manifest)
        self._known[manifest.id] = snapshot
        return snapshot

    def get(self, snapshot_id: str) -> Snapshot:
        """The snapshot of that id, its files present and of the right length.

        Raises:
            NotFound: there is none.
            HostFailure: (``snapshot_damaged``, ``snapshot_format``) it cannot be used; says why.
        """
        directory = self._path(snapshot_id)
        known = self._known.get(snapshot_id)
        if known is not None:
            check_files(known.manifest, directory)
            return known
        if not directory.is_dir():
            raise NotFound(
                f"there is no snapshot {snapshot_id} on this host; list them to see which there are"
            )
        snapshot = Snapshot(directory, read_manifest(directory))
        self._known[snapshot_id] = snapshot
        return snapshot

    def list(self) -> builtins.list[Snapshot]:
        """All that can be used, oldest first; for the others see :meth:`damaged`."""
        return sorted(self._read_all()[0], key=lambda snapshot: snapshot.manifest.created_at)

    def damaged(self) -> dict[str, str]:
        """Why each of the others cannot be used, by id."""
        return self._read_all()[1]

    def _read_all(self) -> tuple[builtins.list[Snapshot], dict[str, str]]:
        good, bad = [], {}
        for directory in self._root.iterdir():
            try:
                good.append(self.get(directory.name))
            except (HostFailure, NotFound) as error:
                bad[directory.name] = error.message
        return good, bad

    async def delete(self, snapshot_id: str) -> None:
        """Remove a snapshot, also a damaged one. It is gone at once; its space a moment later.

        Raises:
            NotFound: there is none.
        """
        directory = self._path(snapshot_id)
        grave = self._staging / f"{snapshot_id}.{secrets.token_hex(6)}.deleted"
        self._known.pop(snapshot_id, None)
        try:
            directory.rename(grave)
        except FileNotFoundError:
            raise NotFound(f"there is no snapshot {snapshot_id} on this host") from None
        await in_thread(remove_tree, grave)

    def _path(self, snapshot_id: str) -> Path:
        if not _ID.fullmatch(snapshot_id):
            raise NotFound("there is no snapshot of that id: an id is letters, digits, '.', '_' and '-'")
        return self._root / snapshot_id


def require_restorable(manifest: Manifest, identity: VmmIdentity) -> None:
    """Refuse a snapshot that this host's VMM cannot load, before anything is started.

    Raises:
        Conflict: (``snapshot_incompatible``) names both sides.
    """
    here = VmmRecord.of(identity)
    if manifest.vmm != here:
        raise Conflict(
            f"snapshot {manifest.id} was taken by {manifest.vmm} and this host runs {here}; nothing was started;"
            " restore it on a host like the first, or make it again here",
            code="snapshot_incompatible",
        )
    if manifest.network != NETWORK_VERSION:
        raise Conflict(
            f"snapshot {manifest.id} was made for network layout {manifest.network} and this version has"
            f" {NETWORK_VERSION}; nothing was started; make it again",
            code="snapshot_incompatible",
        )
