"""The data directory on real file systems. Needs root, loop devices, mkfs.xfs; no VM.

Every test has a tmpfs of its own as "the disk": it cannot reflink, and its size is ours to choose.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pandastackd.disk import mounts
from pandastackd.disk.atomic import staged
from pandastackd.disk.layout import DataDir
from pandastackd.disk.reflink import allocated_bytes, clone, supports_reflink
from pandastackd.errors import Conflict, HostFailure, InsufficientStorage

pytestmark = pytest.mark.needs("root", "mkfs.xfs", "losetup")

MIB = 1024 * 1024


def _mount_tmpfs(point: Path, size: str) -> None:
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(point)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A "disk" of 6 GiB (no memory is used before it is written) that cannot reflink."""
    point = tmp_path / "disk"
    _mount_tmpfs(point, "6g")
    yield point
    subprocess.run(["umount", "--recursive", str(point)], check=True)


@pytest.fixture
def data(disk: Path) -> Iterator[DataDir]:
    data = DataDir(disk / "data")
    data.prepare(image_gib=5, reserve_mib=512)
    yield data
    data.unmount()


def _loop_devices(data: DataDir) -> list[str]:
    return mounts.loop_devices_of(data.image) if data.image.exists() else []


def test_a_disk_without_reflink_gets_an_image_with_it(data: DataDir) -> None:
    assert supports_reflink(data.host)
    mount = mounts.mount_at(data.host)
    assert mount is not None
    assert mount.filesystem == "xfs"
    assert {"nodev", "nosuid"} <= mount.options
    assert len(_loop_devices(data)) == 1
    assert data.image.stat().st_size == 5 * 1024 * MIB
    assert allocated_bytes(data.image) < 200 * MIB
    for folder in (data.root, data.host, data.snapshots, data.sandboxes, data.staging):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_clones_share_blocks_and_keep_holes(data: DataDir) -> None:
    source, target = data.snapshots / "memory", data.sandboxes / "memory"
    with source.open("wb") as file:
        file.write(os.urandom(8 * MIB))
        file.truncate(512 * MIB)
        file.flush()
        os.fsync(file.fileno())
    before = os.statvfs(data.host).f_bfree
    clone(source, target)
    assert (before - os.statvfs(data.host).f_bfree) * os.statvfs(data.host).f_frsize < MIB
    assert allocated_bytes(target) <= 9 * MIB
    with target.open("r+b") as file:
        file.write(b"changed")
    with source.open("rb") as file:
        assert file.read(7) != b"changed"
    with pytest.raises(HostFailure):  # another file system cannot share blocks with this one
        clone(source, data.root / "elsewhere")


def test_prepare_again_changes_nothing_and_mounts_once(data: DataDir) -> None:
    (data.snapshots / "s1").mkdir()
    (data.staging / "half").mkdir()
    data.prepare(image_gib=5, reserve_mib=512)
    assert (data.snapshots / "s1").is_dir()
    assert list(data.staging.iterdir()) == []
    points = [
        m for m in mounts.parse_mountinfo(Path("/proc/self/mountinfo").read_text()) if m.point == data.host
    ]
    assert len(points) == 1
    assert len(_loop_devices(data)) == 1


def test_after_a_reboot_it_is_mounted_again_with_everything_in_it(data: DataDir) -> None:
    (data.snapshots / "s1").write_text("kept")
    data.unmount()
    assert mounts.mount_at(data.host) is None
    assert _loop_devices(data) == []
    again = DataDir(data.root)
    again.prepare(image_gib=5, reserve_mib=512)
    try:
        assert (again.snapshots / "s1").read_text() == "kept"
    finally:
        again.release()


def test_a_loop_device_left_by_a_killed_run_is_used_again(data: DataDir) -> None:
    data.unmount()
    device = subprocess.run(
        ["losetup", "--find", "--show", str(data.image)], check=True, capture_output=True, text=True
    ).stdout.strip()
    data.prepare(image_gib=5, reserve_mib=512)
    mount = mounts.mount_at(data.host)
    assert mount is not None
    assert mount.source == device
    data.unmount()
    assert _loop_devices(data) == []


def test_a_half_made_image_is_made_again(disk: Path) -> None:
    data = DataDir(disk / "data")
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from pandastackd.disk import image\n"
        "from pandastackd.disk.layout import DataDir\n"
        "image._make_filesystem = lambda path: (path.write_bytes(b'half'), os.kill(os.getpid(), 9))\n"
        "DataDir(Path(sys.argv[1])).prepare(image_gib=5, reserve_mib=512)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(data.root)], check=False)
    assert killed.returncode == -9
    assert not data.image.exists()
    data.prepare(image_gib=5, reserve_mib=512)
    try:
        assert supports_reflink(data.host)
        assert sorted(path.name for path in data.root.iterdir()) == ["host", "lock", "pandastack.img"]
    finally:
        data.unmount()


def test_a_small_disk_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    small = tmp_path / "small"
    _mount_tmpfs(small, "64m")
    try:
        with pytest.raises(InsufficientStorage, match="are free"):
            DataDir(small / "a" / "data").prepare(image_gib=5, reserve_mib=512)
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize("step", ["_make_filesystem", "mount_image"])
def test_a_failure_on_the_way_leaves_nothing(disk: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def fail(*_: object) -> None:
        raise HostFailure("broken on purpose")

    module = "pandastackd.disk.image" if step == "_make_filesystem" else "pandastackd.disk.layout"
    monkeypatch.setattr(f"{module}.{step}", fail)
    data = DataDir(disk / "a" / "data")
    with pytest.raises(HostFailure, match="on purpose"):
        data.prepare(image_gib=5, reserve_mib=512)
    assert list(disk.iterdir()) == []


def test_a_damaged_image_is_reported_and_kept(disk: Path) -> None:
    data = DataDir(disk / "data")
    data.root.mkdir()
    data.image.write_bytes(b"\0" * MIB)
    with pytest.raises(HostFailure, match="xfs_repair"):
        data.prepare(image_gib=5, reserve_mib=0)
    assert data.image.stat().st_size == MIB
    assert _loop_devices(data) == []


def test_a_foreign_mount_in_the_way_is_reported(data: DataDir) -> None:
    data.unmount()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(data.host)], check=True)
    try:
        with pytest.raises(Conflict, match="tmpfs") as caught:
            data.prepare(image_gib=5, reserve_mib=512)
        assert caught.value.code == "mount_point_in_use"
    finally:
        subprocess.run(["umount", str(data.host)], check=True)


def test_a_file_system_that_reflinks_needs_no_image(data: DataDir) -> None:
    inner = DataDir(data.host / "inner")
    # The image inside is 5 GiB at most, so this also needs the check to look at the right file system.
    inner.prepare(image_gib=4, reserve_mib=0)
    try:
        assert not inner.image.exists()
        assert mounts.mount_at(inner.host) is None
        assert supports_reflink(inner.host)
    finally:
        inner.unmount()


def test_free_space_is_what_the_disk_outside_really_has(data: DataDir) -> None:
    inside = data.free_mib()
    subprocess.run(["mount", "-o", "remount,size=2g", str(data.root.parent)], check=True)
    outside = os.statvfs(data.root)
    assert data.free_mib() == outside.f_bavail * outside.f_frsize // MIB < inside


def _allocate(path: Path, size: int) -> None:
    with path.open("xb") as file:
        os.posix_fallocate(file.fileno(), 0, size)


def test_running_full_inside_the_image_is_typed_and_leaves_nothing(data: DataDir) -> None:
    space = os.statvfs(data.host)
    with pytest.raises(InsufficientStorage), staged(data.staging, data.snapshots / "s1") as directory:
        _allocate(directory / "disk", space.f_blocks * space.f_frsize)
    assert list(data.staging.iterdir()) == []
    assert list(data.snapshots.iterdir()) == []
