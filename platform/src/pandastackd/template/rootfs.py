"""Root file systems from Debian's packages: ``mmdebstrap`` makes a folder, which becomes an image."""

from __future__ import annotations

from pathlib import Path

from anyio import to_thread

from pandastackd.template import tools
from pandastackd.template.debian import Archive
from pandastackd.template.image import make_image

ESSENTIAL = ("ca-certificates", "passwd", "sudo")
"""What every sandbox has, whatever its recipe says: without these its promises to users do not hold."""

USER, USER_ID = "user", 1000

_LEFT_OUT = (
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/lintian/*",
)
_KEPT = ("/usr/share/doc/*/copyright", "/usr/share/locale/locale.alias")
_DOWNLOADS = "/var/cache/apt/archives"

_OPENSSL_CONFIG = "/usr/lib/ssl/openssl.cnf"
_KERNEL_RANDOM = """\
# What OpenSSL reads first: the system's configuration, and that every random byte comes from the kernel. OpenSSL's own
# generator keeps its state in each process, where the children of a forked sandbox would share it.
.include = /etc/ssl/openssl.cnf

[default]
nodejs_conf = openssl_init

[openssl_init]
providers = provider_sect
random = kernel_random

[provider_sect]
default = default_sect
kernel-random = kernel_random_provider

[default_sect]
activate = 1

[kernel_random_provider]
module = /run/pandastack/kernel-random.so
activate = 1

[kernel_random]
random = KERNEL-RANDOM
"""


async def make_rootfs(
    archive: Archive,
    packages: tuple[str, ...],
    image: Path,
    *,
    disk_mib: int,
    downloads: Path,
    scratch: Path,
    progress: tools.Progress,
) -> None:
    """Makes the image of a Debian with these packages, the user ``user`` and nothing of this host in it.

    Args:
        image: the file to make.
        disk_mib: its size; it takes no more than what is in it.
        downloads: where downloaded packages are kept for the next build.
        scratch: an empty folder for what is half-made.

    Raises:
        HostFailure: the archive cannot be reached or a package does not exist; carries what the tool said.
    """
    root = scratch / "root"
    progress("rootfs", f"installing {len(packages)} packages of Debian {archive.suite} and what they need")
    await tools.run(
        archive.bootstrap(root, _options(packages, downloads)), doing=f"install Debian {archive.suite}"
    )
    await to_thread.run_sync(settle, root)
    progress("rootfs", f"making a disk image of {disk_mib} MiB")
    await make_image(root, image, disk_mib)


def _options(packages: tuple[str, ...], downloads: Path) -> list[str]:
    include = sorted({*ESSENTIAL, *packages})
    return [
        "--variant=minbase",
        "--format=directory",
        "--components=main",
        f"--include={','.join(include)}",
        # Nothing is lost that a next build would not make again, so nothing has to reach the disk in between.
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT),
        *(f"--dpkgopt=path-include={pattern}" for pattern in _KEPT),
        "--skip=download/empty,essential/unlink,check/empty",
        # Some packages link their manuals when they are installed, and fail where there is no folder for them.
        f'--setup-hook=mkdir -p "$1{_DOWNLOADS}" "$1/usr/share/man/man1"',
        f"--setup-hook=sync-in {downloads} {_DOWNLOADS}",
        f"--customize-hook=sync-out {_DOWNLOADS} {downloads}",
        f'--customize-hook=chroot "$1" useradd --create-home --uid {USER_ID} --shell /bin/bash {USER}',
        # So that no upgrade of OpenSSL puts its own back in place of what settle() writes there.
        f'--customize-hook=chroot "$1" dpkg-divert --quiet --local --rename --add {_OPENSSL_CONFIG}',
    ]


def settle(root: Path) -> None:
    """Makes a fresh root a sandbox's: who may do what, what it is called, no trace of where it was made."""
    _write(root / "etc/sudoers.d/user", f"{USER} ALL=(ALL) NOPASSWD:ALL\n", 0o440)
    _write(root / "etc/hostname", "sandbox\n")
    _write(root / "etc/hosts", "127.0.0.1 localhost sandbox\n::1 localhost ip6-localhost ip6-loopback\n")
    _write(root / "etc/default/locale", "LANG=C.UTF-8\n")
    # Empty, not missing: the guest agent gives each sandbox its own.
    _write(root / "etc/machine-id", "")
    _write(root / "etc/resolv.conf", "")
    # Made when the package was installed: every sandbox of the template would have the same.
    for host_key in (root / "etc/ssh").glob("ssh_host_*_key*"):
        host_key.unlink()
    _write(root / _OPENSSL_CONFIG.removeprefix("/"), _KERNEL_RANDOM)


def _write(path: Path, content: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(content)
    path.chmod(mode)
