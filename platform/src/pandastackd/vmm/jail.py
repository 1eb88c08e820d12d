"""Running a program in the jail (``crates/jail``), and what it leaves in its home.

home/            root's, closed to everyone else; the jailed process cannot see it
  root/          empty; in the process's own mount namespace its root is assembled here
  qmp.sock       listening socket, inherited by the process
  console.log    its standard output, bounded
  vmm.log        its standard error, bounded
  jail.json      who the supervisor and the process are; written before the jail answers
  exit.json      empty until the process ends, then how
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pandastackd.errors import HostFailure, VmmFailed
from pandastackd.vmm.console import clean_text, tail
from pandastackd.vmm.driver import VmmExit
from pandastackd.vmm.processes import ProcessIdentity, boot_id

CONSOLE_BYTES = 256 * 1024
LOG_BYTES = 64 * 1024
_MAX_OPEN_FILES = 256
_OOM_SCORE = 500
_START_SECONDS = 10.0
_ERROR_LINES = 5
_SYSTEM_LIBRARIES = ("/lib", "/lib32", "/lib64", "/libx32")


@dataclass(frozen=True, slots=True)
class JailHome:
    """Names of everything in a home."""

    path: Path

    @property
    def root(self) -> Path:
        """Mount point of the process's root."""
        return self.path / "root"

    @property
    def qmp(self) -> Path:
        """The socket that QEMU serves."""
        return self.path / "qmp.sock"

    @property
    def console(self) -> Path:
        """The guest's serial console."""
        return self.path / "console.log"

    @property
    def log(self) -> Path:
        """What the VMM itself says."""
        return self.path / "vmm.log"

    @property
    def pids(self) -> Path:
        """Who was started."""
        return self.path / "jail.json"

    @property
    def exit(self) -> Path:
        """How the process ended."""
        return self.path / "exit.json"

    def make(self) -> None:
        """Make an empty home; what an earlier one left is removed."""
        self.remove()
        self.path.mkdir(mode=0o700)
        self.root.mkdir(mode=0o700)

    def remove(self) -> None:
        """Remove it and everything in it. Idempotent.

        Raises:
            HostFailure: a file would not go.
        """
        try:
            shutil.rmtree(self.path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise HostFailure(f"cannot remove {self.path}: {error.strerror}") from error

    def read_pids(self) -> Jailed | None:
        """Who was started there in this boot; ``None`` when nobody was, or the host has rebooted since."""
        try:
            return Jailed.parse(json.loads(self.pids.read_text()))
        except (OSError, ValueError):
            return None

    def read_exit(self) -> VmmExit:
        """How the process ended; nothing known when its supervisor could not write it down."""
        try:
            report = json.loads(self.exit.read_text())
            return VmmExit(report["code"], report["signal"], float(report["ended_at"]))
        except (OSError, ValueError, KeyError, TypeError):
            return VmmExit()

    def complaint(self) -> str:
        """The last things the VMM said about itself, on one line; empty when it said nothing."""
        return " / ".join(line for line in tail(self.log, _ERROR_LINES).split("\n") if line)


@dataclass(frozen=True, slots=True)
class Jailed:
    """A started jail: its supervisor, whose death ends everything in it, and the process."""

    supervisor: ProcessIdentity
    process: ProcessIdentity

    @classmethod
    def parse(cls, report: Mapping[str, Any]) -> Jailed | None:
        """From the jail's own report; ``None`` when it is of an earlier boot.

        Raises:
            ValueError: it is no such report.
        """
        try:
            if report["boot_id"] != boot_id():
                return None
            supervisor, process = report["supervisor"], report["vmm"]
            return cls(
                ProcessIdentity(int(supervisor["pid"]), int(supervisor["start_time"])),
                ProcessIdentity(int(process["pid"]), int(process["start_time"])),
            )
        except (KeyError, TypeError) as error:
            raise ValueError("not a report of the jail") from error


@dataclass(frozen=True, slots=True)
class Inherited:
    """A descriptor the process is born with: a file of the host, or a tap of its network namespace."""

    fd: int
    source: Path | str
    writable: bool = True


@dataclass(frozen=True, slots=True)
class JailedProgram:
    """A program and everything it may see and use. See ``crates/jail/src/config.rs`` for the meaning of
    each."""

    program: Path
    args: Sequence[str]
    home: JailHome
    uid: int
    join_files: Sequence[Path]
    netns: Path | None = None
    taps: Sequence[Inherited] = ()
    files: Sequence[Inherited] = ()
    listener_fd: int | None = None
    served: Sequence[tuple[str, Path, bool]] = ()
    """(name, file, writable): opened read-write by name, the process gets this file instead."""
    shown: Sequence[tuple[Path, Path]] = ()
    """(file, name in the jail): can be read there."""
    env: Mapping[str, str] = field(default_factory=dict)

    def as_config(self) -> dict[str, Any]:
        """The jail's configuration document."""
        libraries = [Path(folder) for folder in _SYSTEM_LIBRARIES if Path(folder).exists()]
        binds = [
            {"source": "/usr", "target": "/usr"},
            *({"source": str(lib), "target": str(lib)} for lib in libraries if not lib.is_symlink()),
            {"source": "/etc/ld.so.cache", "target": "/etc/ld.so.cache"},
            *(
                {"source": device, "target": device, "writable": True, "devices": True}
                for device in ("/dev/null", "/dev/zero", "/dev/urandom")
            ),
            *({"source": str(source), "target": str(target)} for source, target in self.shown),
        ]
        home = self.home
        return {
            "program": str(self.program),
            "args": list(self.args),
            "env": dict(self.env),
            "uid": self.uid,
            "gid": self.uid,
            "netns": str(self.netns) if self.netns else None,
            "taps": [{"name": str(tap.source), "fd": tap.fd} for tap in self.taps],
            "files": [{"source": str(f.source), "fd": f.fd, "writable": f.writable} for f in self.files],
            "listeners": (
                [{"path": str(home.qmp), "fd": self.listener_fd}] if self.listener_fd is not None else []
            ),
            "served": [{"name": n, "source": str(s), "writable": w} for n, s, w in self.served],
            "binds": binds,
            "symlinks": [
                {"link": str(lib), "target": str(lib.readlink())} for lib in libraries if lib.is_symlink()
            ],
            "root": str(home.root),
            "console": {"path": str(home.console), "max_bytes": CONSOLE_BYTES},
            "log": {"path": str(home.log), "max_bytes": LOG_BYTES},
            "exit_file": str(home.exit),
            "pid_file": str(home.pids),
            "cgroups": [str(file) for file in self.join_files],
            "rlimits": [{"resource": "nofile", "value": _MAX_OPEN_FILES}],
            "oom_score_adj": _OOM_SCORE,
        }


def start(jail: Path, program: JailedProgram) -> Jailed:
    """Start ``program`` in the jail; its home and cgroup must be there. Blocks for some milliseconds.

    Raises:
        VmmFailed: it does not run; names the step that failed. Nothing is left running.
    """
    try:
        done = subprocess.run(
            [str(jail)],
            input=json.dumps(program.as_config()).encode(),
            capture_output=True,
            timeout=_START_SECONDS,
            check=False,
            env={},
        )
        report = json.loads(done.stdout)
        if done.returncode == 0 and (jailed := Jailed.parse(report)) is not None:
            return jailed
        reason = clean_text(str(report.get("error", "it gave no reason")).encode())
    except subprocess.TimeoutExpired:
        reason = f"it took longer than {math.ceil(_START_SECONDS)} s"
    except OSError as error:
        reason = f"{jail}: {os.strerror(error.errno) if error.errno else error}"
    except (ValueError, AttributeError):
        reason = f"it ended with status {done.returncode}: {clean_text(done.stderr)[-500:].strip()}"
    raise VmmFailed(f"the VMM was not started: {reason}", code="vmm_not_started")
