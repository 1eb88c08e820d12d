"""The cgroup tree on folders that look like the kernel's: v2 only, v1 only, and both."""

from __future__ import annotations

from pathlib import Path

import pytest

from pandastackd.errors import HostFailure
from pandastackd.vmm.cgroups import CgroupTree, Limits

LIMITS = Limits(memory_bytes=300 << 20, cpus=1.5, processes=97)


class FakeHost:
    """Mount points of cgroup hierarchies in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lines: list[str] = []

    def v2(self, controllers: str) -> Path:
        """Mount v2 with these controllers."""
        where = self.folder / "unified"
        where.mkdir()
        (where / "cgroup.controllers").write_text(controllers + "\n")
        self._lines.append(f"30 20 0:26 / {where} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate")
        return where

    def v1(self, controllers: str) -> Path:
        """Mount v1 hierarchy with these controllers, comma-separated."""
        where = self.folder / controllers
        where.mkdir()
        self._lines.append(f"31 20 0:27 / {where} rw shared:9 - cgroup cgroup rw,{controllers}")
        return where

    def tree(self) -> CgroupTree:
        """Open the tree on what is mounted."""
        mountinfo = self.folder / "mountinfo"
        mountinfo.write_text("\n".join(["22 1 254:0 / / rw - ext4 /dev/vda rw", *self._lines]) + "\n")
        return CgroupTree.open("ours", mountinfo=mountinfo)


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    """A host with nothing mounted yet."""
    return FakeHost(tmp_path)


def test_v2_only(host: FakeHost) -> None:
    root = host.v2("cpuset cpu io memory hugetlb pids")
    tree = host.tree()
    for parent in (root, root / "ours"):
        assert (parent / "cgroup.subtree_control").read_text() == "+cpu +memory +pids +io"
    cgroup = tree.create("one", LIMITS)
    assert cgroup.directories == [root / "ours/one"]
    assert cgroup.join_files == [root / "ours/one/cgroup.procs"]
    written = {file.name: file.read_text() for file in (root / "ours/one").iterdir()}
    assert written == {
        "cpu.max": "150000 100000",
        "memory.max": str(300 << 20),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "97",
    }
    assert tree.names() == {"one"}


def test_v1_only(host: FakeHost) -> None:
    cpu, memory, pids, blkio = (host.v1(name) for name in ("cpu,cpuacct", "memory", "pids", "blkio"))
    cgroup = host.tree().create("one", LIMITS)
    assert (cpu / "ours/one/cpu.cfs_quota_us").read_text() == "150000"
    assert (memory / "ours/one/memory.limit_in_bytes").read_text() == str(300 << 20)
    assert not (memory / "ours/one/memory.memsw.limit_in_bytes").exists()
    assert (pids / "ours/one/pids.max").read_text() == "97"
    assert cgroup.join_files == [where / "ours/one/tasks" for where in (cpu, memory, pids, blkio)]


def test_both_at_once_takes_each_controller_from_where_it_is(host: FakeHost) -> None:
    unified = host.v2("hugetlb pids io")
    host.v1("cpu")
    host.v1("memory")
    cgroup = host.tree().create("one", LIMITS)
    assert (unified / "ours/cgroup.subtree_control").read_text() == "+pids +io"
    assert (unified / "ours/one/pids.max").read_text() == "97"
    assert len(cgroup.join_files) == 3


def test_v2_without_controllers_is_left_alone(host: FakeHost) -> None:
    unified = host.v2("hugetlb")
    for name in ("cpu", "memory", "pids", "blkio"):
        host.v1(name)
    host.tree().create("one", LIMITS)
    assert not (unified / "ours").exists()


def test_a_missing_controller_is_named(host: FakeHost) -> None:
    host.v2("cpu memory")
    with pytest.raises(HostFailure, match="pids, io"):
        host.tree()


def test_opening_and_removing_repeat(host: FakeHost) -> None:
    root = host.v2("cpu io memory pids")
    host.tree()
    tree = host.tree()
    cgroup = tree.get("never-made")
    cgroup.kill()
    cgroup.remove()
    assert cgroup.pids() == set()
    assert (root / "ours").is_dir()


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "x" * 300, "a\n"])
def test_names_are_plain(host: FakeHost, name: str) -> None:
    host.v2("cpu io memory pids")
    with pytest.raises(HostFailure):
        host.tree().get(name)
