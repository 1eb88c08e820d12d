"""The guest's kernel: Debian's cloud kernel, taken from its package without being installed anywhere.

The package is unpacked by ``mmdebstrap`` into a folder that is thrown away, so every host, whatever its own
distribution, gets the same kernel for a suite. Kept are the bzImage (what QEMU boots), the ELF image inside
it (what Firecracker boots), and the few modules that a microVM needs, uncompressed and in loading order.

On disk, below the ``kernel`` folder of the data directory::

    <suite>-*/ what the distribution gave:  vmlinux, bzImage, modules/*.ko, manifest.json
    <digest>/  what a VM boots:             vmlinux, bzImage, initramfs.cpio.gz, manifest.json
"""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import os
import re
import shutil
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

from anyio import to_thread

from pandastackd.errors import HostFailure
from pandastackd.template import tools
from pandastackd.template.debian import Archive
from pandastackd.template.initramfs import GuestPrograms, build_initramfs

PACKAGE = "linux-image-cloud-amd64"
NEEDED_MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_mmio",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
    "virtio-rng",
    "inet_diag",  # with tcp_diag: how the agent cuts the connections that a fork inherits
    "tcp_diag",
)
"""What a guest cannot do without; those that a kernel has built in are skipped."""

_ELF = b"\x7fELF"
_SETUP_SECTORS, _HEADER_MAGIC, _PAYLOAD = 0x1F1, 0x202, 0x248
_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


@dataclass(frozen=True, slots=True)
class Kernel:
    """A distribution's kernel, ready to be packed with an init."""

    release: str
    vmlinux: Path
    bzimage: Path
    modules: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class BootFiles:
    """Everything a VMM needs to boot a guest but its disk; immutable, named by ``digest``."""

    digest: str
    release: str
    vmlinux: Path
    bzimage: Path
    initramfs: Path


async def fetch_kernel(archive: Archive, kernels: Path, *, progress: tools.Progress = tools.silent) -> Kernel:
    """The kernel of a suite: from ``kernels/<suite>-…`` if it is there, else from the distribution.

    Raises:
        HostFailure: the package could not be had, or is not a kernel as we know them.
    """
    # What was kept of an earlier package may lack a module that we need by now.
    home = kernels / f"{archive.suite}-{hashlib.sha256(repr(NEEDED_MODULES).encode()).hexdigest()[:8]}"
    if not _is_complete(home):
        progress("kernel", f"downloading {PACKAGE} of Debian {archive.suite}")
        with tempfile.TemporaryDirectory(dir=kernels, prefix=".fetch-") as scratch:
            await _fetch(archive, Path(scratch))
            _publish(Path(scratch) / "out", home)
    return _read(home)


def _is_complete(home: Path) -> bool:
    return (home / "manifest.json").exists()


def _read(home: Path) -> Kernel:
    manifest = json.loads((home / "manifest.json").read_text())
    modules = tuple(home / "modules" / name for name in manifest["modules"])
    return Kernel(manifest["release"], home / "vmlinux", home / "bzImage", modules)


async def boot_files(kernel: Kernel, programs: GuestPrograms, kernels: Path) -> BootFiles:
    """Packs the kernel with what we bring; the same inputs give the same folder, made once.

    Raises:
        HostFailure: a program is not there; says how to build it.
    """
    programs.require()
    return await to_thread.run_sync(_pack, kernel, programs, kernels)


def _pack(kernel: Kernel, programs: GuestPrograms, kernels: Path) -> BootFiles:
    with tempfile.TemporaryDirectory(dir=kernels, prefix=".pack-") as scratch:
        out = Path(scratch) / "out"
        out.mkdir()
        archive = build_initramfs(programs, kernel.modules, out / "initramfs.cpio.gz")
        image = hashlib.sha256(kernel.bzimage.read_bytes()).hexdigest()
        digest = hashlib.sha256(f"{image} {archive}".encode()).hexdigest()[:32]
        home = kernels / digest
        if not _is_complete(home):
            os.link(kernel.vmlinux, out / "vmlinux")
            os.link(kernel.bzimage, out / "bzImage")
            manifest = {"release": kernel.release, "bzimage_sha256": image, "initramfs_sha256": archive}
            (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
            _publish(out, home)
    return BootFiles(digest, kernel.release, home / "vmlinux", home / "bzImage", home / "initramfs.cpio.gz")


async def _fetch(archive: Archive, scratch: Path) -> None:
    """Leaves the distribution's part in ``scratch/out``."""
    unpacked = scratch / "root"
    options = ["--variant=extract", f"--include={PACKAGE}", "--format=directory"]
    await tools.run(
        archive.bootstrap(unpacked, options), doing=f"get the guest kernel of Debian {archive.suite}"
    )
    image = newest_kernel(unpacked / "boot")
    bzimage = image.read_bytes()
    await to_thread.run_sync(
        _keep, archive.suite, unpacked, image, await extract_vmlinux(bzimage), scratch / "out"
    )


def _keep(suite: str, unpacked: Path, image: Path, vmlinux: bytes, out: Path) -> None:
    release = image.name.removeprefix("vmlinuz-")
    (out / "modules").mkdir(parents=True)
    shutil.copyfile(image, out / "bzImage")
    (out / "vmlinux").write_bytes(vmlinux)
    names = copy_modules(_module_folder(unpacked, release), out / "modules")
    manifest = {"release": release, "package": PACKAGE, "suite": suite, "modules": names}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def newest_kernel(boot: Path) -> Path:
    """The one kernel image in a ``boot`` folder, or the last by name.

    Raises:
        HostFailure: there is none.
    """
    images = sorted(boot.glob("vmlinuz-*"))
    if not images:
        raise HostFailure(f"{PACKAGE} contains no kernel image; name another suite", code="kernel_unusable")
    return images[-1]


def _module_folder(root: Path, release: str) -> Path:
    for lib in ("usr/lib", "lib"):
        folder = root / lib / "modules" / release
        if folder.is_dir():
            return folder
    raise HostFailure(
        f"the kernel package has no modules for {release}; name another suite", code="kernel_unusable"
    )


async def extract_vmlinux(bzimage: bytes) -> bytes:
    """The ELF image inside a bzImage, found by the setup header and decompressed.

    Raises:
        HostFailure: not a bzImage, or compressed in a way we do not know, or no ELF inside.
    """
    if len(bzimage) < _PAYLOAD + 8 or bzimage[_HEADER_MAGIC : _HEADER_MAGIC + 4] != b"HdrS":
        raise HostFailure("the kernel image is no bzImage; name another suite", code="kernel_unusable")
    offset, length = struct.unpack_from("<II", bzimage, _PAYLOAD)
    start = ((bzimage[_SETUP_SECTORS] or 4) + 1) * 512 + offset
    image = await _decompress(bzimage[start : start + length])
    if not image.startswith(_ELF):
        raise HostFailure(
            "the kernel image unpacks to no ELF file; name another suite", code="kernel_unusable"
        )
    return image


async def _decompress(payload: bytes) -> bytes:
    # The kernel's build appends the unpacked size in 4 bytes to every format but gzip, which has it inside.
    if payload.startswith(b"\x1f\x8b"):
        return gzip.decompress(payload)
    if payload.startswith(b"\xfd7zXZ\0"):
        return lzma.decompress(payload[:-4])
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        return await tools.run(["zstd", "-dc"], stdin=payload[:-4], doing="unpack the kernel image")
    if payload.startswith(b"\x02\x21\x4c\x18"):
        return await tools.run(["lz4", "-dc"], stdin=payload[:-4], doing="unpack the kernel image")
    raise HostFailure(
        f"the kernel image begins {payload[:4].hex()}: compressed in an unknown way; name another suite",
        code="kernel_unusable",
    )


def copy_modules(folder: Path, out: Path) -> list[str]:
    """Copies the needed modules and all they depend on, uncompressed, and returns their loading order.

    Raises:
        HostFailure: a module is neither a file nor built in.
    """
    files = {_canonical(path.name): path for path in sorted(folder.rglob("*.ko*"))}
    built_in = {_canonical(Path(line).name) for line in (folder / "modules.builtin").read_text().split()}
    order: dict[str, None] = {}

    def visit(name: str) -> None:
        file = f"{name}.ko"
        if file in order or name in built_in:
            return
        if name not in files:
            raise HostFailure(f"the kernel has no module {name}; name another suite", code="kernel_unusable")
        content = _module_content(files[name])
        for dependency in _dependencies(content):
            visit(dependency)
        (out / file).write_bytes(content)
        order[file] = None

    for needed in NEEDED_MODULES:
        visit(_canonical(needed))
    return list(order)


def _canonical(name: str) -> str:
    """A module's name as the kernel compares them: no suffix, and dashes are underscores."""
    return name.split(".ko", 1)[0].replace("-", "_")


def _module_content(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(content)
    if path.suffix == ".gz":
        return gzip.decompress(content)
    if path.suffix == ".ko":
        return content
    raise HostFailure(
        f"the module {path.name} is compressed in an unknown way; name another suite", code="kernel_unusable"
    )


def _dependencies(module: bytes) -> list[str]:
    found = _DEPENDS.search(module)
    names = found.group(1).decode().split(",") if found else []
    return [_canonical(name) for name in names if name]


def _publish(made: Path, home: Path) -> None:
    """Moves a finished folder to its place; one that got there first is as good."""
    for path in [*(entry for entry in made.rglob("*") if entry.is_file()), made]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    if home.exists():
        shutil.rmtree(made)
    else:
        made.rename(home)
