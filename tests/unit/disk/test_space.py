"""Free space, admission, and the reading of mountinfo. Needs nothing."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from pandastackd.disk import mounts, space
from pandastackd.disk.reflink import allocated_bytes, clone, punch_hole, supports_reflink
from pandastackd.errors import HostFailure, InsufficientStorage


class _Disk:
    def __init__(self, free: int) -> None:
        self._free = free

    def free_mib(self) -> int:
        return self._free


def test_admission_counts_the_reserve() -> None:
    space.require_free(_Disk(300), 100, reserve_mib=200)
    with pytest.raises(
        InsufficientStorage, match=r"to bake base: 101 MiB are needed and 200 MiB.*only 300 MiB"
    ) as error:
        space.require_free(_Disk(300), 101, reserve_mib=200, what="bake base")
    assert error.value.http_status == 507


def test_a_place_that_does_not_exist_yet_is_measured_where_it_would_be(tmp_path: Path) -> None:
    assert space.free_mib(tmp_path / "a" / "b") == pytest.approx(space.free_mib(tmp_path), abs=64)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_every_kind_of_full_is_one_error(number: int) -> None:
    with pytest.raises(InsufficientStorage, match="cannot bake"), space.storage_errors("bake"):
        raise OSError(number, "full")


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(PermissionError), space.storage_errors("bake"):
        raise PermissionError(errno.EPERM, "no")


def test_mountinfo_with_optional_fields_and_escapes() -> None:
    text = (
        "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"
        "40 36 7:0 / /data/host rw,nosuid,nodev - xfs /dev/loop0 rw\n"
        "not a line\n"
    )
    first, second = mounts.parse_mountinfo(text)
    assert first == mounts.Mount(Path("/mnt 2"), "ext3", "/dev/root", frozenset({"rw", "noatime"}))
    assert second.source == "/dev/loop0"
    assert "nodev" in second.options


def test_a_failing_tool_says_why() -> None:
    with pytest.raises(HostFailure, match=r"No such file"):
        mounts.run(["ls", "/no/such/place"])
    with pytest.raises(HostFailure, match="not installed") as caught:
        mounts.run(["no-such-tool-at-all"])
    assert caught.value.code == "tool_missing"


def test_clone_leaves_nothing_where_it_cannot_work(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"x" * 8192)
    if supports_reflink(tmp_path):
        clone(source, target)
        assert target.read_bytes() == source.read_bytes()
    else:
        with pytest.raises(HostFailure) as caught:
            clone(source, target)
        assert caught.value.code == "no_reflink"
        assert not target.exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".reflink")]


def test_clone_replaces_nothing_and_follows_no_link(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x")
    (tmp_path / "there").touch()
    with pytest.raises(FileExistsError):
        clone(source, tmp_path / "there")
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(OSError, match="symbolic links"):
        clone(tmp_path / "link", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_holes_cost_nothing(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(b"x" * (1 << 20))
    full = allocated_bytes(path)
    with path.open("r+b") as file:
        punch_hole(file.fileno(), 0, 1 << 19)
    assert allocated_bytes(path) <= full - (1 << 19) + 8192
    assert path.read_bytes() == bytes(1 << 19) + b"x" * (1 << 19)
