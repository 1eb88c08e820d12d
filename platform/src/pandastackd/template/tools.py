"""Running the distribution's tools: a list of arguments in, output or one plain error out."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import anyio

from pandastackd.errors import HostFailure

PACKAGES = {
    "apt-get": "apt",
    "cp": "coreutils",
    "debugfs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "lz4": "lz4",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "resize2fs": "e2fsprogs",
    "zstd": "zstd",
}
"""Which distribution package carries a tool, for the error that says what to install."""

_SHOWN_LINES = 12


class Progress(Protocol):
    """Told about each long step: a stable word for the step, and a detail for people."""

    def __call__(self, step: str, detail: str) -> None: ...


def silent(step: str, detail: str) -> None:
    """A :class:`Progress` that tells nobody."""


def require(*tools: str) -> None:
    """Checks that tools are installed.

    Raises:
        HostFailure: names every missing tool and the package that has it.
    """
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        packages = " ".join(sorted({PACKAGES.get(tool, tool) for tool in missing}))
        raise HostFailure(
            f"{', '.join(missing)} not found, so no template can be built; run: apt-get install {packages}",
            code="tool_missing",
        )


async def run(
    arguments: Sequence[str],
    *,
    doing: str,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    merge_errors: bool = False,
    accept: Callable[[int], bool] = lambda code: code == 0,
) -> bytes:
    """Runs a tool to its end and returns what it printed.

    Args:
        doing: reads as "cannot ``doing``" in the error.
        merge_errors: return what it wrote to its error output too, in between.
        accept: whether an exit code is a success.

    Raises:
        HostFailure: the tool is not installed or failed; carries the last lines it printed.
    """
    require(arguments[0])
    errors = subprocess.STDOUT if merge_errors else subprocess.PIPE
    done = await anyio.run_process(list(arguments), input=stdin, env=env, stderr=errors, check=False)
    if accept(done.returncode):
        return done.stdout
    lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
    said = " | ".join(lines[-_SHOWN_LINES:]) or "no message"
    raise HostFailure(
        f"cannot {doing}: {arguments[0]} ended with code {done.returncode}: {said}",
        code="build_failed",
    )
