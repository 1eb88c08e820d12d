"""The initramfs: a newc archive of our programs and the kernel modules.

The same content always gives the same archive, byte for byte: entries are sorted, owned by root and dated 0.
So the digest of the archive is the digest of what is in it.
"""

from __future__ import annotations

import gzip
import hashlib
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pandastackd.errors import HostFailure
from pandastackd.programs import find_program

MODULE_LIST = "modules.list"


@dataclass(frozen=True, slots=True)
class GuestPrograms:
    """What we bring into every guest; none of it is on a guest's disk.

    Attributes:
        init: the static ``guest-init`` binary; becomes ``/init``.
        agent: the static ``guest-agent`` binary; becomes ``/guest-agent``.
        random: the OpenSSL provider that draws from the kernel; becomes ``/kernel-random.so``.
    """

    init: Path
    agent: Path
    random: Path

    @classmethod
    def built(cls) -> Self:
        """Those of this checkout or installation.

        Raises:
            HostFailure: one was never built; says how.
        """
        return cls(
            find_program("guest-init"), find_program("guest-agent"), find_program("libopenssl_random.so")
        )

    def require(self) -> None:
        """See that all are there.

        Raises:
            HostFailure: one is not; says how to build it.
        """
        for program in (self.init, self.agent, self.random):
            if not program.is_file():
                raise HostFailure(
                    f"{program} is missing, so no guest can boot; run: make setup",
                    code="guest_binary_missing",
                )


def build_initramfs(programs: GuestPrograms, modules: Sequence[Path], out: Path) -> str:
    """Writes a compressed initramfs.

    Args:
        programs: what goes into it beside the modules.
        modules: uncompressed kernel modules in the order in which they must be loaded.
        out: the file to write.

    Returns:
        The sha256 of the uncompressed archive: equal for equal content, whatever compressed it.
    """
    archive = b"".join(_archive(programs, modules))
    # Level 1: the guest pays for unpacking once a bake, the host for packing once a build.
    out.write_bytes(gzip.compress(archive, compresslevel=1, mtime=0))
    return hashlib.sha256(archive).hexdigest()


def _archive(programs: GuestPrograms, modules: Sequence[Path]) -> Iterator[bytes]:
    directory, program, plain = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755, stat.S_IFREG | 0o644
    order = "".join(f"{module.name}\n" for module in modules).encode()
    entries: list[tuple[str, int, bytes]] = [(name, directory, b"") for name in ("dev", "modules", "newroot")]
    entries += [
        ("guest-agent", program, programs.agent.read_bytes()),
        ("init", program, programs.init.read_bytes()),
        ("kernel-random.so", plain, programs.random.read_bytes()),
        (MODULE_LIST, plain, order),
    ]
    entries += [(f"modules/{module.name}", plain, module.read_bytes()) for module in modules]
    # Directories first: "modules" sorts before what is in it, and a plain sort keeps that.
    for number, (name, mode, content) in enumerate(sorted(entries), start=1):
        yield _entry(name, mode, content, number)
    # The kernel opens this before our init can mount a devtmpfs.
    yield _entry("dev/console", stat.S_IFCHR | 0o600, b"", len(entries) + 1, device=(5, 1))
    yield _entry("TRAILER!!!", 0, b"", 0)


def _entry(name: str, mode: int, content: bytes, number: int, *, device: tuple[int, int] = (0, 0)) -> bytes:
    """One record: a header of 8-digit hexadecimal fields, the name, the content; padded to multiples of 4."""
    encoded = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (number, mode, 0, 0, links, 0, len(content), 0, 0, *device, len(encoded), 0)
    header = b"070701" + "".join(f"{field:08X}" for field in fields).encode()
    return _padded(header + encoded) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
