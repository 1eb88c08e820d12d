"""Root file systems as ext4 images: made from a folder and added to, never mounted by the host.

A guest may have written to an image, so its file system is not to be trusted with the host's kernel.
e2fsprogs works on it as a plain file instead.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from anyio import to_thread

from pandastackd.errors import HostFailure
from pandastackd.template import tools

TIMESTAMP = 1_735_689_600
"""When every file that we add was last changed: always the same, so that equal recipes give equal disks."""

_LABEL = "pandastack"
_FSCK_MENDED = 1
_LIST_ECHO = "debugfs: ls -p "
_ROUTINE = re.compile(r"debugfs[: ]|Allocated inode: ")
_ENTRY = re.compile(r"/\d+/(?P<mode>[0-7]{6})/\d+/\d+/(?P<name>[^/]+)/\d*/$")


async def make_image(folder: Path, image: Path, disk_mib: int) -> None:
    """Makes a sparse ext4 image of ``disk_mib`` MiB that contains ``folder``.

    Raises:
        HostFailure: what is in the folder does not fit, or mke2fs failed.
    """
    await to_thread.run_sync(_make_sparse, image, disk_mib)
    # No blocks reserved for root, a small journal, and nothing left for the guest to initialise in the
    # background: every block that a guest writes is one that each copy of it pays for.
    extended = "lazy_itable_init=0,lazy_journal_init=0,discard,root_owner=0:0"
    options = ["-t", "ext4", "-m", "0", "-J", "size=16", "-L", _LABEL, "-E", extended]
    await tools.run(
        ["mke2fs", "-q", "-F", *options, "-d", str(folder), str(image)], doing="make the disk image"
    )


async def copy_image(source: Path, target: Path, disk_mib: int) -> None:
    """Copies an image, sharing its blocks where the host can, and grows it to ``disk_mib`` MiB."""
    await tools.run(
        ["cp", "--reflink=auto", "--sparse=always", str(source), str(target)],
        doing="copy the parent's disk image",
    )
    if await to_thread.run_sync(_lengthen, target, disk_mib):
        await check_image(target)
        await tools.run(["resize2fs", str(target)], doing=f"grow the disk image to {disk_mib} MiB")


def _make_sparse(image: Path, mib: int) -> None:
    with image.open("xb") as stream:
        stream.truncate(mib << 20)


def _lengthen(image: Path, mib: int) -> bool:
    """Makes the file at least ``mib`` MiB long; says whether it was shorter."""
    shorter = image.stat().st_size < mib << 20
    if shorter:
        # A finished image is read-only for everyone; this copy of it is not finished.
        image.chmod(0o644)
        os.truncate(image, mib << 20)
    return shorter


async def check_image(image: Path) -> None:
    """Checks and, after a guest used it, cleans up an image.

    Raises:
        HostFailure: the file system is damaged.
    """
    await tools.run(
        ["e2fsck", "-f", "-p", str(image)],
        doing="check the disk image",
        accept=lambda code: code <= _FSCK_MENDED,
    )


async def add_tree(image: Path, tree: Path) -> None:
    """Adds a folder to an image: files replace those of the same name, folders that exist stay as they are.

    Everything added belongs to root. What is neither a file, a folder nor a link is refused.

    Raises:
        HostFailure: a name or kind of file cannot be added, or the image is full.
    """
    present = await _present(image, tree)
    script = await to_thread.run_sync(lambda: "".join(f"{line}\n" for line in _script(tree, present)))
    said = await _debugfs(image, script, doing="add files to the disk image")
    # debugfs exits with 0 whatever happened; what went wrong is among the lines that are not its echo.
    wrong = [line for line in said if line.strip() and not _ROUTINE.match(line)]
    if wrong:
        raise HostFailure(f"cannot add files to the disk image: {' | '.join(wrong[:5])}", code="build_failed")
    await check_image(image)


async def _debugfs(image: Path, script: str, *, doing: str) -> list[str]:
    # A file and not a pipe: some event loops make a child's standard input a socket, which cannot be opened by name.
    with tempfile.NamedTemporaryFile("w", dir=image.parent, prefix=".debugfs-") as commands:
        commands.write(script)
        commands.flush()
        said = await tools.run(
            ["debugfs", "-w", "-f", commands.name, str(image)], merge_errors=True, doing=doing
        )
    return said.decode(errors="replace").splitlines()


async def _present(image: Path, tree: Path) -> dict[str, set[str]]:
    """The folders that tree and image share, each with the names that the image has in it."""
    present: dict[str, set[str]] = {}
    level = [""]
    while level:
        script = "".join(f"ls -p {_quoted(path or '/')}\n" for path in level)
        names, folders = _listing(await _debugfs(image, script, doing="look into the disk image"))
        present |= names
        level = [
            f"{path}/{name}"
            for path in level
            for name in _subfolders(tree, path)
            if f"{path}/{name}" in folders
        ]
    return present


def _listing(lines: Iterable[str]) -> tuple[dict[str, set[str]], set[str]]:
    """Reads the answers to several ``ls -p``: the names in each folder, and the paths that are folders.

    A guest chose the names: a line that looks like none of ours is left out, not believed.
    """
    names: dict[str, set[str]] = {}
    folders: set[str] = set()
    path = ""
    for line in lines:
        if line.startswith(_LIST_ECHO):
            path = line.removeprefix(_LIST_ECHO).strip('"').removesuffix("/")
            names[path] = set()
        elif entry := _ENTRY.match(line):
            names[path].add(entry["name"])
            if stat.S_ISDIR(int(entry["mode"], 8)):
                folders.add(f"{path}/{entry['name']}")
    return names, folders


def _subfolders(tree: Path, path: str) -> list[str]:
    return [entry.name for entry in os.scandir(f"{tree}{path}") if entry.is_dir(follow_symlinks=False)]


def _script(tree: Path, present: dict[str, set[str]]) -> Iterator[str]:
    """The debugfs commands that add the tree."""
    for folder, subfolders, files in os.walk(tree):
        path = folder[len(str(tree)) :]
        if path not in present:
            # By its last name only: debugfs finds no parent in a path of one name.
            parent, _, name = path.rpartition("/")
            yield f"cd {_quoted(parent or '/')}"
            yield f"mkdir {_quoted(name)}"
        yield f"cd {_quoted(path or '/')}"
        # os.walk counts a link to a folder among the folders.
        links = [name for name in subfolders if Path(folder, name).is_symlink()]
        for name in sorted([*files, *links]):
            if name in present.get(path, ()):
                yield f"rm {_quoted(name)}"
            yield from _entry(Path(folder, name), _quoted(name))


def _entry(source: Path, name: str) -> Iterator[str]:
    status = source.lstat()
    if stat.S_ISLNK(status.st_mode):
        yield f"symlink {name} {_quoted(str(source.readlink()))}"
        return
    if not stat.S_ISREG(status.st_mode):
        raise HostFailure(
            f"{source} is neither file, folder nor link: it cannot be added", code="build_failed"
        )
    yield f"write {_quoted(str(source))} {name}"
    yield f"sif {name} mode 0{stat.S_IFREG | stat.S_IMODE(status.st_mode):o}"
    yield f"sif {name} mtime @{TIMESTAMP}"


def _quoted(name: str) -> str:
    if any(character in name for character in '"\n\r\0'):
        raise HostFailure(
            f"the file name {name!r} has a quote or line break: it cannot be added", code="build_failed"
        )
    return f'"{name}"'
