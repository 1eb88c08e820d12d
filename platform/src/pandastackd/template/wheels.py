"""Python packages for the guest, unpacked on the host from wheels only: nothing of a package is run here.

Modules are compiled beforehand by the guest's own version of Python, taken from the same Debian and confined
to a folder that is thrown away: compiling reads source, it does not run it. Without that, each sandbox would
compile on its own.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from anyio import to_thread

from pandastackd.errors import HostFailure
from pandastackd.template import tools
from pandastackd.template.debian import Archive
from pandastackd.template.image import TIMESTAMP

_PLATFORM = "x86_64-manylinux_2_31"
_NOBODY = 65_534
_SCRIPT_FOLDER, _DATA_FOLDER = "bin", "share"


async def add_wheels(
    archive: Archive, requirements: tuple[str, ...], tree: Path, *, cache: Path, scratch: Path
) -> None:
    """Puts Python packages into ``tree`` where the guest's Python finds them, below ``/usr/local``.

    Args:
        requirements: as pip takes them, by name; each needs a wheel, and so does all it depends on.
        tree: the folder that will be added to the root file system.
        cache: where wheels are kept for the next build.
        scratch: an empty folder for what is half-made.

    Raises:
        HostFailure: a package does not exist, has no wheel or contradicts another; carries what the resolver
            said.
    """
    python = scratch / "python"
    await tools.run(
        archive.bootstrap(
            python, ["--variant=extract", "--include=base-files,python3", "--format=directory"]
        ),
        doing=f"get the Python of Debian {archive.suite}",
    )
    interpreter = await to_thread.run_sync(_interpreter, python)
    modules = tree / "usr/local/lib" / interpreter / "dist-packages"
    # The interpreter sees only its own folder, so the packages are unpacked inside it.
    unpacked = python / "wheels"
    await tools.run(
        [
            *(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-config"),
            *("--python", sys.executable, "--target", str(unpacked), "--cache-dir", str(cache)),
            *("--python-version", interpreter.removeprefix("python"), "--python-platform", _PLATFORM),
            *("--only-binary", ":all:", "--link-mode", "copy", *requirements),
        ],
        # What this machine trusts (a company's own certificate, for one) holds here too.
        env={**os.environ, "UV_SYSTEM_CERTS": "1"},
        doing="get the Python packages",
    )
    await to_thread.run_sync(_sort_out, unpacked, tree)
    chroot = ["chroot", f"--userspec={_NOBODY}:{_NOBODY}", str(python)]
    compile_all = [f"/usr/bin/{interpreter}", "-I", "-m", "compileall", "-q", "-x", "/tests?/", "/wheels"]
    # Templates for code generators end in .py and are none; what cannot be compiled is compiled by nobody.
    await tools.run(
        [*chroot, *compile_all], doing="compile the Python packages", accept=lambda code: code <= 1
    )
    await to_thread.run_sync(_move, unpacked, modules)


def _interpreter(python: Path) -> str:
    """Name of Debian's interpreter, such as ``python3.13``, made runnable in its folder."""
    for name in ("bin", "lib", "lib64", "sbin"):
        if not (python / name).exists():
            (python / name).symlink_to(f"usr/{name}")
    link = python / "usr/bin/python3"
    if not link.is_symlink():
        raise HostFailure(
            "the suite's python3 is no link to its version; name another suite", code="build_failed"
        )
    return link.readlink().name


def _sort_out(unpacked: Path, tree: Path) -> None:
    """Moves scripts and data out of the modules, and makes the rest as the compiler needs it."""
    local = tree / "usr/local"
    for script in sorted((unpacked / _SCRIPT_FOLDER).glob("*")):
        _move_script(script, local / "bin" / script.name)
    shutil.rmtree(unpacked / _SCRIPT_FOLDER, ignore_errors=True)
    data = unpacked / _DATA_FOLDER
    if data.is_dir():
        shutil.copytree(data, local / _DATA_FOLDER, dirs_exist_ok=True)
        shutil.rmtree(data)
    (unpacked / ".lock").unlink(missing_ok=True)
    for folder, _, files in os.walk(unpacked):
        # The compiler runs as nobody, and compiled modules remember when their source was changed.
        os.chown(folder, _NOBODY, _NOBODY)
        for name in files:
            os.utime(Path(folder, name), (TIMESTAMP, TIMESTAMP))


def _move_script(script: Path, target: Path) -> None:
    """Installs a script to be run by the guest's Python, not by the one that unpacked it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    first, newline, rest = script.read_bytes().partition(b"\n")
    if first.startswith(b"#!") and b"python" in first:
        first = b"#!/usr/bin/python3"
    target.write_bytes(first + newline + rest)
    target.chmod(0o755)


def _move(unpacked: Path, modules: Path) -> None:
    modules.parent.mkdir(parents=True, exist_ok=True)
    unpacked.rename(modules)
