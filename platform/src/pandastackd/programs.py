"""Where our own Rust binaries are: built in a checkout, or installed."""

from __future__ import annotations

import shutil
from pathlib import Path

from pandastackd.errors import HostFailure


def find_program(name: str) -> Path:
    """One of our own binaries: beside a checkout's build, in the system's library folder, or on PATH.

    Raises:
        HostFailure: it was never built.
    """
    checkout = Path(__file__).resolve().parents[3]
    places = [*sorted(checkout.glob(f"target/*/release/{name}")), checkout / "target" / "release" / name]
    built = [place for place in places if place.is_file()]
    if built:
        # Of two builds for different targets the later one is meant.
        return max(built, key=lambda place: place.stat().st_mtime)
    installed = Path("/usr/lib/pandastack", name)
    found = str(installed) if installed.is_file() else shutil.which(name)
    if found is None:
        raise HostFailure(f"the program {name} is not built; run `make setup`", code="not_installed")
    return Path(found)
