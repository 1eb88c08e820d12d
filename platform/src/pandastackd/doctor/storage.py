"""Checks of the data directory: reflink for real, and room."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pandastackd.config import Settings
from pandastackd.disk.image import LEAST_MIB
from pandastackd.disk.layout import DataDir
from pandastackd.disk.mounts import mount_at
from pandastackd.disk.reflink import supports_reflink
from pandastackd.doctor.finding import Finding, fail, ok, warn


def reflink(settings: Settings) -> Finding:
    """Whether files in the data directory can be cloned, by themselves or by an image."""
    data = DataDir(settings.data_dir)
    place = data.host if data.host.exists() else _existing(data.root)
    with tempfile.TemporaryDirectory(dir=place, prefix=".pandastack-doctor-") as trial:
        works = supports_reflink(Path(trial))
    if works:
        how = f"through {data.image}" if mount_at(data.host) and data.image.exists() else "by its file system"
        return ok("reflink", f"{place} clones files in milliseconds, {how}")
    lacks = _image_lacks()
    if lacks:
        return fail(
            "reflink",
            f"{place} cannot clone files, and an XFS image cannot stand in: {', '.join(lacks)}",
            "put the data directory on XFS (reflink=1) or btrfs, or mend what is named",
        )
    return ok(
        "reflink", f"{place} cannot clone files; a sparse XFS image inside {data.root} stands in for it"
    )


def disk(settings: Settings) -> Finding:
    """Whether there is room to begin, or to go on."""
    data = DataDir(settings.data_dir)
    free, reserve = data.free_mib(), settings.disk_reserve_mib
    seen = f"{free} MiB free for {data.root}, {reserve} MiB kept in reserve"
    if free >= LEAST_MIB + reserve:
        return ok("disk", seen)
    remedy = "free space, or name a directory on a larger disk with PANDASTACK_DATA_DIR"
    if not data.lock_file.exists():
        return fail("disk", f"{seen}: a new data directory needs {LEAST_MIB} MiB", remedy)
    if free > reserve:
        return warn("disk", f"{seen}: enough to run, short for building templates", remedy)
    return fail("disk", f"{seen}: every create is refused until there is more", remedy)


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _image_lacks() -> list[str]:
    """What the XFS image would need and this kernel lacks; a module not loaded yet is not lacking."""
    lacks = []
    if not Path("/dev/loop-control").exists():
        lacks.append("no loop devices (/dev/loop-control)")
    modules = Path("/lib/modules", Path("/proc/sys/kernel/osrelease").read_text().strip())
    if "\txfs\n" not in Path("/proc/filesystems").read_text() and not list(modules.rglob("xfs.ko*")):
        lacks.append("the kernel has no XFS")
    return lacks
