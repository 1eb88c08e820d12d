"""The sparse XFS image that stands in where the data directory's own file system cannot reflink.

It is a file inside the data directory, made beside its final name and renamed into place when it is whole,
and mounted through a loop device. Mounting is safe to repeat: after a reboot, after a crash, and while it is
mounted already.
"""

from __future__ import annotations

import os
from pathlib import Path

from pandastackd.disk import mounts
from pandastackd.disk.atomic import sync_path
from pandastackd.disk.space import MIB, free_mib, storage_errors
from pandastackd.errors import Conflict, HostFailure, InsufficientStorage

LEAST_MIB = 4096
"""Smallest image worth making: two templates, their snapshots, and room to work."""

# `discard` gives deleted files' blocks back to the file system outside, so that the image shrinks again.
_OPTIONS = "nodev,nosuid,noatime,discard"


def create_image(image: Path, *, largest_mib: int, reserve_mib: int) -> int:
    """Make ``image``, a sparse XFS file system with reflink, as large as the free space allows, and return
    its MiB.

    What an earlier, killed run left half-made is replaced.

    Raises:
        InsufficientStorage: there is no room; nothing is left behind.
        HostFailure: ``mkfs.xfs`` is missing or failed; nothing is left behind.
    """
    half = image.with_name(image.name + ".part")
    half.unlink(missing_ok=True)
    free = free_mib(image.parent)
    size_mib = min(largest_mib, free - reserve_mib)
    if size_mib < LEAST_MIB:
        raise InsufficientStorage(
            f"not enough disk space for the data image: {LEAST_MIB} MiB are needed and"
            f" {reserve_mib} MiB are kept in reserve, but only {free} MiB are free on {image.parent};"
            " use a larger disk or another --data-dir"
        )
    try:
        with storage_errors("make the data image"):
            fd = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            try:
                os.ftruncate(fd, size_mib * MIB)
            finally:
                os.close(fd)
            _make_filesystem(half)
            sync_path(half)
            half.rename(image)
            sync_path(image.parent)
    finally:
        half.unlink(missing_ok=True)
    return size_mib


def mount_image(image: Path, point: Path) -> None:
    """Mount ``image`` on ``point``; when it is mounted there already, do nothing.

    A loop device that a killed run left attached is used again, never a second one: two over one image would
    be two file systems writing the same blocks.

    Raises:
        Conflict: (``mount_point_in_use``) something else is mounted on ``point``.
        HostFailure: no loop device could be had, or the image could not be mounted.
    """
    devices = mounts.loop_devices_of(image)
    present = mounts.mount_at(point)
    if present is not None:
        if present.source in devices:
            return
        raise Conflict(
            f"{present.source} ({present.filesystem}) is mounted on {point}, where the data image belongs;"
            f" unmount it with `umount {point}`, or remove {image.name} to do without the image",
            code="mount_point_in_use",
        )
    device = devices[0] if devices else mounts.attach_loop(image)
    try:
        mounts.run(["mount", "-t", "xfs", "-o", _OPTIONS, device, str(point)])
    except HostFailure as error:
        raise HostFailure(
            f"cannot mount {image}: {error.message}; `xfs_repair {image}` mends a damaged image,"
            " and a kernel without XFS or loop devices needs a data directory that can reflink by itself",
            code="image_not_mounted",
        ) from error
    finally:
        # While it is mounted this only marks it to go with the last unmount; when the mount failed, it goes
        # now.
        mounts.run(["losetup", "--detach", device])


def unmount_image(image: Path, point: Path) -> None:
    """Unmount ``image`` from ``point``, which also frees its loop device. Not being mounted is success.

    Raises:
        HostFailure: something still uses it.
    """
    present = mounts.mount_at(point)
    if present is not None and present.source in mounts.loop_devices_of(image):
        mounts.run(["umount", str(point)])


def _make_filesystem(path: Path) -> None:
    try:
        mounts.run(["mkfs.xfs", "-q", "-f", "-m", "reflink=1", "-L", "pandastack", str(path)])
    except HostFailure as error:
        if free_mib(path.parent) == 0:
            raise InsufficientStorage(
                f"cannot make the data image: the disk of {path.parent} ran full; use a larger disk"
            ) from error
        raise
