"""Disk images made and added to without being mounted: what arrives, what is replaced, what is refused.

Needs e2fsprogs; no root.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pandastackd.errors import HostFailure
from pandastackd.template.image import TIMESTAMP, add_tree, check_image, copy_image, make_image
from pandastackd.template.rootfs import settle

pytestmark = [pytest.mark.anyio, pytest.mark.needs("mke2fs", "debugfs", "e2fsck", "resize2fs")]


@pytest.fixture
async def image(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/hostname").write_text("old")
    (root / "etc/kept").write_text("kept")
    (root / "usr/lib").mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    made = tmp_path / "disk.ext4"
    await make_image(root, made, 64)
    return made


def ask(image: Path, question: str) -> str:
    return subprocess.run(
        ["debugfs", "-R", question, str(image)], capture_output=True, text=True, check=True
    ).stdout


async def test_an_image_is_as_large_as_asked_and_takes_little(image: Path) -> None:
    assert image.stat().st_size == 64 << 20
    assert image.stat().st_blocks * 512 < 24 << 20
    assert ask(image, "cat /etc/kept") == "kept"


async def test_a_tree_is_added_and_replaces_files_of_the_same_name(image: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/hostname").write_text("new")
    (tree / "opt/a folder/deep").mkdir(parents=True)
    (tree / "opt/a folder/deep/a file").write_bytes(bytes(range(256)) * 1000)
    (tree / "opt/a folder/deep/a file").chmod(0o750)
    (tree / "opt/link").symlink_to("a folder")
    (tree / "usr/lib").mkdir(parents=True)
    (tree / "usr/lib/empty").write_text("")
    await add_tree(image, tree)
    assert ask(image, "cat /etc/hostname") == "new"
    assert ask(image, "cat /etc/kept") == "kept"
    status = ask(image, 'stat "/opt/a folder/deep/a file"')
    assert "Mode:  0750" in status
    assert "User:     0   Group:     0" in status
    assert f"mtime: 0x{TIMESTAMP:08x}" in status
    assert 'Fast link dest: "a folder"' in ask(image, "stat /opt/link")
    assert "Type: regular" in ask(image, "stat /lib/empty")
    subprocess.run(
        ["debugfs", "-R", f'dump "/opt/a folder/deep/a file" {tmp_path}/out', str(image)], check=True
    )
    assert (tmp_path / "out").read_bytes() == bytes(range(256)) * 1000
    await check_image(image)


async def test_adding_twice_is_adding_once(image: Path, tmp_path: Path) -> None:
    (tmp_path / "tree/opt").mkdir(parents=True)
    (tmp_path / "tree/opt/file").write_text("text")
    await add_tree(image, tmp_path / "tree")
    await add_tree(image, tmp_path / "tree")
    assert ask(image, "cat /opt/file") == "text"


async def test_a_folder_where_the_image_has_a_link_is_refused(image: Path, tmp_path: Path) -> None:
    (tmp_path / "tree/lib").mkdir(parents=True)
    (tmp_path / "tree/lib/file").write_text("text")
    with pytest.raises(HostFailure, match="cannot add files"):
        await add_tree(image, tmp_path / "tree")


@pytest.mark.parametrize("name", ['a"b', "a\nrm kept"])
async def test_names_that_could_be_commands_are_refused(image: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "tree/etc").mkdir(parents=True)
    (tmp_path / "tree/etc" / name).write_text("text")
    with pytest.raises(HostFailure, match="quote or line break"):
        await add_tree(image, tmp_path / "tree")


async def test_an_image_that_is_full_says_so(image: Path, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/large").write_bytes(b"\1" * (80 << 20))
    with pytest.raises(HostFailure, match="cannot add files"):
        await add_tree(image, tmp_path / "tree")


async def test_a_copy_can_be_larger_and_the_original_stays(image: Path, tmp_path: Path) -> None:
    image.chmod(0o444)
    copy = tmp_path / "copy.ext4"
    await copy_image(image, copy, 96)
    assert copy.stat().st_size == 96 << 20
    assert image.stat().st_size == 64 << 20
    sizes = {
        line.split(":")[0]: line.split(":")[1].strip()
        for line in ask(copy, "stats -h").splitlines()
        if ":" in line
    }
    assert int(sizes["Block count"]) * int(sizes["Block size"]) == 96 << 20
    await check_image(copy)


async def test_a_fresh_root_has_no_trace_of_the_host(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hostname").write_text("the-build-host")
    (tmp_path / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef")
    (tmp_path / "etc/resolv.conf").symlink_to("/run/stub")
    settle(tmp_path)
    assert (tmp_path / "etc/hostname").read_text() == "sandbox\n"
    assert (tmp_path / "etc/machine-id").read_text() == ""
    assert not (tmp_path / "etc/resolv.conf").is_symlink()
    assert (tmp_path / "etc/sudoers.d/user").stat().st_mode & 0o777 == 0o440
    assert ".include = /etc/ssl/openssl.cnf" in (tmp_path / "usr/lib/ssl/openssl.cnf").read_text()
