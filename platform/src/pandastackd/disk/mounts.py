"""What is mounted where, as the kernel says; and the loop devices between an image and its mount."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pandastackd.errors import HostFailure

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of ``mountinfo``.

    Attributes:
        point: where it is mounted.
        filesystem: type, such as ``xfs``.
        source: device or name it is mounted from.
        options: per-mount options, such as ``nodev``.
    """

    point: Path
    filesystem: str
    source: str
    options: frozenset[str]


def parse_mountinfo(text: str) -> list[Mount]:
    """The mounts that the content of a ``/proc/<pid>/mountinfo`` lists, oldest first."""
    mounts = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        before, after = left.split(" "), right.split(" ")
        if len(before) < 6 or len(after) < 2:
            continue
        mounts.append(
            Mount(Path(_unescape(before[4])), after[0], _unescape(after[1]), frozenset(before[5].split(",")))
        )
    return mounts


def mount_at(point: Path) -> Mount | None:
    """The topmost mount on exactly ``point``, or ``None``."""
    found = [m for m in parse_mountinfo(Path("/proc/self/mountinfo").read_text()) if m.point == point]
    return found[-1] if found else None


def loop_devices_of(image: Path) -> list[str]:
    """Loop devices that ``image`` is attached to, by inode and not by name: a deleted image is no match."""
    listing = run(["losetup", "--json", "--list", "--output", "NAME", "--associated", str(image)])
    entries = json.loads(listing)["loopdevices"] if listing.strip() else []
    return [str(entry["name"]) for entry in entries]


def attach_loop(image: Path) -> str:
    """Attach ``image`` to a free loop device and return its name.

    Direct I/O keeps the image's pages out of the page cache a second time; where the file system below
    cannot do it, the device works without.

    Raises:
        HostFailure: no loop device could be had.
    """
    attach = ["losetup", "--find", "--show"]
    try:
        return run([*attach, "--direct-io=on", str(image)]).strip()
    except HostFailure:
        return run([*attach, str(image)]).strip()


def run(command: list[str]) -> str:
    """Run a system tool and return what it printed.

    Raises:
        HostFailure: the tool is missing, or it failed; the message carries its last words.
    """
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise HostFailure(
            f"cannot run {command[0]}: it is not installed; `make setup` installs it", code="tool_missing"
        ) from None
    except subprocess.CalledProcessError as error:
        words = " ".join(str(error.stderr or error.stdout).split())
        raise HostFailure(f"`{' '.join(command)}` failed: {words or error.returncode}") from error
    return done.stdout


def _unescape(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
