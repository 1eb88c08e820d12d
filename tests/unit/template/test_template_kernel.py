"""The guest's kernel and initramfs: images made by hand in every known compression, modules in order, archives byte by
byte."""

from __future__ import annotations

import gzip
import json
import lzma
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from pandastackd.errors import HostFailure
from pandastackd.template import debian
from pandastackd.template.initramfs import GuestPrograms, build_initramfs
from pandastackd.template.kernel import Kernel, boot_files, copy_modules, extract_vmlinux
from pandastackd.template.recipe import DEFAULT_SUITE

ELF = b"\x7fELF" + bytes(range(256)) * 64
SETUP_SECTORS = 3


def bzimage(payload: bytes) -> bytes:
    """A bzImage as the kernel's build lays it out: setup sectors, a little code, the payload, more code."""
    setup = bytearray((SETUP_SECTORS + 1) * 512)
    setup[0x1F1] = SETUP_SECTORS
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", setup, 0x248, 100, len(payload))
    return bytes(setup) + b"\x90" * 100 + payload + b"\xcc" * 50


def by_tool(*command: str) -> bytes:
    if shutil.which(command[0]) is None:
        pytest.skip(f"needs the program {command[0]}")
    return subprocess.run(command, input=ELF, capture_output=True, check=True).stdout


SIZE = struct.pack("<I", len(ELF))
COMPRESSED = {
    "gzip": lambda: gzip.compress(ELF),
    "xz": lambda: lzma.compress(ELF) + SIZE,
    "zstd": lambda: by_tool("zstd", "-c") + SIZE,
    "lz4": lambda: by_tool("lz4", "-l", "-c") + SIZE,
}


@pytest.mark.anyio
@pytest.mark.parametrize("how", COMPRESSED)
async def test_the_elf_comes_out_of_a_bzimage(how: str) -> None:
    assert await extract_vmlinux(bzimage(COMPRESSED[how]())) == ELF


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("image", "named"),
    [
        (b"MZ", "no bzImage"),
        (bytes(2048), "no bzImage"),
        (bzimage(b"\x99\x99\x99\x99rest"), "begins 99999999"),
        (bzimage(gzip.compress(b"a text")), "no ELF"),
    ],
)
async def test_what_is_no_kernel_is_refused(image: bytes, named: str) -> None:
    with pytest.raises(HostFailure, match=named):
        await extract_vmlinux(image)


def module(depends: str) -> bytes:
    return b"\x7fELF...\0license=GPL\0depends=" + depends.encode() + b"\0name=x\0"


def test_modules_come_in_loading_order_and_uncompressed(tmp_path: Path) -> None:
    folder, out = tmp_path / "modules", tmp_path / "out"
    (folder / "kernel").mkdir(parents=True)
    out.mkdir()
    (folder / "modules.builtin").write_text("kernel/virtio.ko\nkernel/virtio_ring.ko\nkernel/bus.ko\n")
    packed = {
        "virtio_mmio.ko": module(""),
        "virtio_blk.ko": module("bus"),
        "virtio_net.ko.gz": gzip.compress(module("net-failover")),
        "net_failover.ko.xz": lzma.compress(module("failover")),
        "failover.ko": module(""),
        "virtio-rng.ko.xz": lzma.compress(module("rng-core,bus")),
        "rng-core.ko": module(""),
        "inet_diag.ko": module(""),
        "tcp_diag.ko": module("inet_diag"),
    }
    for name, content in packed.items():
        (folder / "kernel" / name).write_bytes(content)
    order = copy_modules(folder, out)
    assert order == [
        *("virtio_mmio.ko", "virtio_blk.ko", "failover.ko", "net_failover.ko", "virtio_net.ko"),
        *("rng_core.ko", "virtio_rng.ko", "inet_diag.ko", "tcp_diag.ko"),
    ]
    assert sorted(path.name for path in out.iterdir()) == sorted(order)
    assert all(path.read_bytes().startswith(b"\x7fELF") for path in out.iterdir())


def test_a_kernel_without_a_needed_module_is_refused(tmp_path: Path) -> None:
    (tmp_path / "modules.builtin").write_text("kernel/virtio.ko kernel/virtio_ring.ko\n")
    with pytest.raises(HostFailure, match="no module virtio_mmio"):
        copy_modules(tmp_path, tmp_path)


@pytest.fixture
def parts(tmp_path: Path) -> tuple[GuestPrograms, list[Path]]:
    programs = GuestPrograms(tmp_path / "an-init", tmp_path / "an-agent", tmp_path / "a-library")
    programs.init.write_bytes(b"init!")
    programs.agent.write_bytes(b"agent")
    programs.random.write_bytes(b"library")
    modules = [tmp_path / "zz.ko", tmp_path / "aa.ko"]
    for path in modules:
        path.write_bytes(path.name.encode())
    return programs, modules


def test_the_initramfs_is_an_archive_that_others_read(
    parts: tuple[GuestPrograms, list[Path]], tmp_path: Path
) -> None:
    programs, modules = parts
    out = tmp_path / "initramfs"
    build_initramfs(programs, modules, out)
    if shutil.which("cpio") is None:
        pytest.skip("needs the program cpio")
    archive = gzip.decompress(out.read_bytes())
    listing = subprocess.run(["cpio", "-tv", "--quiet"], input=archive, capture_output=True, check=True)
    rows = {line.split()[-1]: line for line in listing.stdout.decode().splitlines()}
    assert rows["init"].startswith("-rwxr-xr-x")
    assert rows["guest-agent"].startswith("-rwxr-xr-x")
    assert rows["kernel-random.so"].startswith("-rw-r--r--")
    assert rows["modules"].startswith("drwxr-xr-x")
    assert rows["dev/console"].startswith("crw-------")
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    subprocess.run(
        ["cpio", "-id", "--quiet", "init", "modules.list", "modules/*"],
        input=archive,
        cwd=unpacked,
        check=True,
    )
    assert (unpacked / "init").read_bytes() == b"init!"
    assert (unpacked / "modules.list").read_text() == "zz.ko\naa.ko\n", (
        "the loading order is kept, not sorted"
    )
    assert (unpacked / "modules" / "aa.ko").read_bytes() == b"aa.ko"


def test_equal_content_gives_an_equal_initramfs(
    parts: tuple[GuestPrograms, list[Path]], tmp_path: Path
) -> None:
    programs, modules = parts
    first = build_initramfs(programs, modules, tmp_path / "first")
    programs.init.touch()
    assert build_initramfs(programs, modules, tmp_path / "second") == first
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    assert build_initramfs(programs, modules[::-1], tmp_path / "third") != first
    programs.agent.write_bytes(b"other")
    assert build_initramfs(programs, modules, tmp_path / "fourth") != first


@pytest.mark.anyio
async def test_boot_files_are_made_once_and_named_by_their_content(
    parts: tuple[GuestPrograms, list[Path]], tmp_path: Path
) -> None:
    programs, modules = parts
    kernels = tmp_path / "kernel"
    kernels.mkdir()
    (kernels / "vmlinux").write_bytes(ELF)
    (kernels / "bzImage").write_bytes(b"bz")
    kernel = Kernel("6.0", kernels / "vmlinux", kernels / "bzImage", tuple(modules))
    made = await boot_files(kernel, programs, kernels)
    inode = made.initramfs.stat().st_ino
    again = await boot_files(kernel, programs, kernels)
    assert again == made
    assert again.initramfs.stat().st_ino == inode, "it was made twice"
    assert made.vmlinux.read_bytes() == ELF
    assert json.loads((made.bzimage.parent / "manifest.json").read_text())["release"] == "6.0"
    programs.agent.write_bytes(b"other")
    assert (await boot_files(kernel, programs, kernels)).digest != made.digest
    assert not [path for path in kernels.iterdir() if path.name.startswith(".")], "half-made folders are left"


@pytest.mark.anyio
async def test_a_missing_binary_says_how_to_build_it(
    parts: tuple[GuestPrograms, list[Path]], tmp_path: Path
) -> None:
    programs, modules = parts
    kernel = Kernel("6.0", programs.init, programs.init, tuple(modules))
    programs.random.unlink()
    with pytest.raises(HostFailure, match=r"a-library is missing.*make setup"):
        await boot_files(kernel, programs, tmp_path)


@pytest.mark.anyio
async def test_a_host_without_the_keys_says_what_to_install(tmp_path: Path) -> None:
    host, ours = tmp_path / "host", tmp_path / "ours"
    host.mkdir()
    ours.mkdir()
    with pytest.raises(HostFailure, match="debian-archive-keyring"):
        await debian.archive("trixie", mirror="http://mirror.test/debian", keyrings=(host, ours))
    for folder in (ours, host):
        (folder / "debian-archive-trixie-stable.gpg").write_bytes(b"key")
        archive = await debian.archive("trixie", mirror="http://mirror.test/debian", keyrings=(host, ours))
        assert archive.keyrings == (folder / "debian-archive-trixie-stable.gpg",), (
            "the host's own keys come first"
        )
    command = archive.bootstrap(tmp_path / "root", ["--variant=extract"])
    assert command[0] == "mmdebstrap"
    assert command[-3:] == ["trixie", str(tmp_path / "root"), "http://mirror.test/debian"]
    assert f"--keyring={host}/debian-archive-trixie-stable.gpg" in command


@pytest.mark.anyio
async def test_we_bring_the_keys_of_the_default_suite(tmp_path: Path) -> None:
    archive = await debian.archive(
        DEFAULT_SUITE, mirror="http://mirror.test/", keyrings=(tmp_path, *debian.KEYRINGS[1:])
    )
    assert len(archive.keyrings) == 3
    assert all("BEGIN PGP PUBLIC KEY BLOCK" in key.read_text() for key in archive.keyrings)
