"""Where Debian's packages come from: the host's own mirror, and the keys that the archive is signed with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pandastackd.errors import HostFailure
from pandastackd.template import tools

KEYRINGS = (Path("/usr/share/keyrings"), Path(__file__).with_name("keys"))
"""Where the archive's keys are looked for: what the distribution maintains, then what we bring for older hosts."""


@dataclass(frozen=True, slots=True)
class Archive:
    """The package archive that root file systems and kernels are made from.

    Attributes:
        suite: Debian's code name of the release, such as ``trixie``.
        mirror: base address of the archive; None lets mmdebstrap use its own default.
        keyrings: files with the public keys that may sign the archive.
    """

    suite: str
    mirror: str | None
    keyrings: tuple[Path, ...]

    def bootstrap(self, target: Path, options: list[str]) -> list[str]:
        """The mmdebstrap command that makes ``target`` from this archive."""
        keys = [f"--keyring={keyring}" for keyring in self.keyrings]
        mirror = [self.mirror] if self.mirror else []
        return ["mmdebstrap", "--mode=root", *keys, *options, self.suite, str(target), *mirror]


async def archive(suite: str, *, mirror: str | None = None, keyrings: Sequence[Path] = KEYRINGS) -> Archive:
    """Finds out how this host gets at a suite of Debian.

    Args:
        suite: code name of the release.
        mirror: an operator's choice; otherwise what the host's apt uses for Debian, if it uses any.
        keyrings: folders with the archive's keys; the first that knows the suite counts.

    Raises:
        HostFailure: no keys that sign the suite are known; says what to install.
    """
    return Archive(suite, mirror or await _host_mirror(), _keys(suite, keyrings))


def _keys(suite: str, keyrings: Sequence[Path]) -> tuple[Path, ...]:
    for folder in keyrings:
        keys = tuple(sorted(path for path in folder.glob(f"debian-archive-{suite}-*") if path.is_file()))
        if keys:
            return keys
    places = " or ".join(str(folder) for folder in keyrings)
    raise HostFailure(
        f"no keys of Debian {suite} in {places}, so its packages cannot be verified; run: apt-get update &&"
        " apt-get install debian-archive-keyring; where that package is older than the suite, install the"
        " debian-archive-keyring package of Debian's current release",
        code="keyring_missing",
    )


async def _host_mirror() -> str | None:
    """The address from which the host's apt takes Debian itself; None on a host that is not Debian."""
    try:
        listing = await tools.run(
            [
                "apt-get",
                "indextargets",
                "--format",
                "$(ORIGIN)\t$(LABEL)\t$(REPO_URI)",
                "Identifier: Packages",
            ],
            doing="ask apt for its mirror",
        )
    except HostFailure:
        return None
    for line in listing.decode(errors="replace").splitlines():
        origin, label, address = [*line.split("\t"), "", ""][:3]
        if (origin, label) == ("Debian", "Debian") and address:
            return address
    return None
