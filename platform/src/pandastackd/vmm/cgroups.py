"""Our tree of cgroups, ``pandastack/<name>``: what one VMM may take of the host's CPU, memory, processes and
I/O.

Serves hosts with cgroup v2 only, v1 only, and both mounted at once: each controller is used where the kernel
has it. Directly below the root and not below the agent's own cgroup, so that the tree does not depend on who
started the agent, and outlives it.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pandastackd.errors import HostFailure

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")
_CPU_PERIOD_US = 100_000
_CONTROLLERS = ("cpu", "memory", "pids", "io")
_V1_NAMES = {"cpu": "cpu", "memory": "memory", "pids": "pids", "io": "blkio"}
_END_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What the processes of one cgroup may take together.

    Attributes:
        memory_bytes: host memory, page cache of their own included. There is no swap on top.
        cpus: CPUs' worth of time.
        processes: processes and threads.
        io_bytes_per_second: of the device, reads and writes each; ``None`` for no limit.
        io_operations_per_second: likewise.
        device: a file on the file system whose device the I/O limits are for.
    """

    memory_bytes: int
    cpus: float
    processes: int
    io_bytes_per_second: int | None = None
    io_operations_per_second: int | None = None
    device: Path | None = None


class Cgroup:
    """One named cgroup, in every hierarchy that is in use."""

    def __init__(self, name: str, v2: Path | None, v1: dict[str, Path]) -> None:
        self.name = name
        self._v2 = v2
        self._v1 = v1

    @property
    def directories(self) -> list[Path]:
        """Its directories, one a hierarchy."""
        return list(dict.fromkeys([*([self._v2] if self._v2 else []), *self._v1.values()]))

    @property
    def join_files(self) -> list[Path]:
        """Files to which a single-threaded process writes ``0`` to move itself in.

        On v1 that is ``tasks``: moving one thread spares the kernel-wide lock that ``cgroup.procs`` takes.
        """
        v1 = [directory / "tasks" for directory in dict.fromkeys(self._v1.values())]
        return [*([self._v2 / "cgroup.procs"] if self._v2 else []), *v1]

    def limit(self, limits: Limits) -> None:
        """Write the limits; they hold for all processes that are and will be in it.

        Raises:
            HostFailure: the kernel refuses one; says which.
        """
        for controller in _CONTROLLERS:
            directory = self._v1.get(controller)
            settings = (
                _v1_settings(controller, limits, directory)
                if directory is not None
                else _v2_settings(controller, limits)
            )
            for file, value in settings:
                _write((directory or self._v2_directory()) / file, value)

    def pids(self) -> set[int]:
        """Every process in it, in whatever hierarchy."""
        found: set[int] = set()
        for directory in self.directories:
            with suppress(FileNotFoundError, ProcessLookupError):
                found.update(int(line) for line in (directory / "cgroup.procs").read_text().split())
        # 0 stands for a process of another PID namespace, which is out of reach.
        return found - {0}

    def kill(self) -> None:
        """Kill every process in it, children made meanwhile included, and wait until none is left. Blocks.

        Raises:
            HostFailure: one survived; names its pid.
        """
        deadline = time.monotonic() + _END_SECONDS
        while pids := self.pids():
            if time.monotonic() > deadline:
                raise HostFailure(
                    f"process {min(pids)} of cgroup {self.name} does not die; it waits inside the kernel, most "
                    "likely for a device: see `dmesg`, then restart the host",
                    code="process_stuck",
                )
            if self._v2 is None or not _written(self._v2 / "cgroup.kill", "1"):
                for pid in pids:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)

    def remove(self) -> None:
        """Remove it; its processes must have ended. Idempotent. Blocks.

        Raises:
            HostFailure: it is still in use.
        """
        deadline = time.monotonic() + _END_SECONDS
        for directory in self.directories:
            while True:
                try:
                    directory.rmdir()
                except FileNotFoundError:
                    pass
                except OSError as error:
                    # The kernel still accounts for a process that has just ended.
                    if error.errno == errno.EBUSY and time.monotonic() < deadline:
                        time.sleep(0.005)
                        continue
                    raise HostFailure(f"cannot remove cgroup {directory}: {error.strerror}") from error
                break

    def _v2_directory(self) -> Path:
        if self._v2 is None:
            raise HostFailure(f"cgroup {self.name} lacks a controller; mount cgroup v2")
        return self._v2


class CgroupTree:
    """The folder of all our cgroups on this host."""

    def __init__(self, v2: Path | None, v1: dict[str, Path]) -> None:
        """``v2``: our folder in the v2 hierarchy, if used; ``v1``: our folder for each controller that is on
        v1."""
        self._v2 = v2
        self._v1 = v1

    @classmethod
    def open(cls, name: str = "pandastack", *, mountinfo: Path = Path("/proc/self/mountinfo")) -> CgroupTree:
        """Find the host's hierarchies and make our folder in each. Idempotent.

        Raises:
            HostFailure: a controller is nowhere to be had; names it and says what to do.
        """
        unified, legacy = _mounts(mountinfo.read_text())
        on_v2 = _words(unified / "cgroup.controllers") if unified else set()
        v1 = {
            controller: legacy[_V1_NAMES[controller]] / name
            for controller in _CONTROLLERS
            if controller not in on_v2 and _V1_NAMES[controller] in legacy
        }
        missing = [
            controller for controller in _CONTROLLERS if controller not in on_v2 and controller not in v1
        ]
        if missing:
            raise HostFailure(
                f"the kernel offers no cgroup controller for {', '.join(missing)}, so sandboxes cannot be limited; "
                "mount cgroup v2 on /sys/fs/cgroup and do not disable controllers on the kernel command line",
                code="cgroups_missing",
            )
        v2 = unified / name if unified and len(v1) < len(_CONTROLLERS) else None
        for directory in [*([v2] if v2 else []), *v1.values()]:
            try:
                directory.mkdir(exist_ok=True)
            except OSError as error:
                raise HostFailure(
                    f"cannot make cgroup {directory}: {error.strerror}; run as root, outside a container",
                    code="cgroups_missing",
                ) from error
        if v2:
            wanted = " ".join(f"+{controller}" for controller in _CONTROLLERS if controller not in v1)
            for parent in (v2.parent, v2):
                _write(parent / "cgroup.subtree_control", wanted)
        return cls(v2, v1)

    def get(self, name: str) -> Cgroup:
        """The cgroup ``name``, which need not exist.

        Raises:
            HostFailure: ``name`` is no plain name.
        """
        if not _NAME.fullmatch(name):
            raise HostFailure(f"{name!r} is no name for a cgroup")
        return Cgroup(name, self._v2 / name if self._v2 else None, {c: d / name for c, d in self._v1.items()})

    def create(self, name: str, limits: Limits) -> Cgroup:
        """Make a cgroup with limits. One that is there already is taken over.

        Raises:
            HostFailure: the kernel refuses; nothing is left behind.
        """
        cgroup = self.get(name)
        try:
            for directory in cgroup.directories:
                directory.mkdir(exist_ok=True)
            cgroup.limit(limits)
        except (HostFailure, OSError) as error:
            with suppress(HostFailure):
                cgroup.remove()
            if isinstance(error, OSError):
                raise HostFailure(f"cannot make cgroup {name}: {error}") from error
            raise
        return cgroup

    def names(self) -> set[str]:
        """Every cgroup in the tree, left over from whatever agent."""
        parents = [*([self._v2] if self._v2 else []), *self._v1.values()]
        return {
            entry.name
            for parent in parents
            if parent.is_dir()
            for entry in parent.iterdir()
            if entry.is_dir()
        }

    def remove(self) -> None:
        """Remove our folders; every cgroup in them must be gone. For tests and uninstalling."""
        for directory in [*([self._v2] if self._v2 else []), *self._v1.values()]:
            with suppress(FileNotFoundError):
                directory.rmdir()


def _v2_settings(controller: str, limits: Limits) -> list[tuple[str, str]]:
    match controller:
        case "cpu":
            return [("cpu.max", f"{int(limits.cpus * _CPU_PERIOD_US)} {_CPU_PERIOD_US}")]
        case "memory":
            return [
                ("memory.max", str(limits.memory_bytes)),
                ("memory.swap.max", "0"),
                ("memory.oom.group", "1"),
            ]
        case "pids":
            return [("pids.max", str(limits.processes))]
        case _:
            device = _block_device(limits.device)
            values = {
                "rbps": limits.io_bytes_per_second,
                "wbps": limits.io_bytes_per_second,
                "riops": limits.io_operations_per_second,
                "wiops": limits.io_operations_per_second,
            }
            wanted = " ".join(f"{key}={value}" for key, value in values.items() if value is not None)
            return [("io.max", f"{device} {wanted}")] if device and wanted else []


def _v1_settings(controller: str, limits: Limits, directory: Path) -> list[tuple[str, str]]:
    match controller:
        case "cpu":
            return [
                ("cpu.cfs_period_us", str(_CPU_PERIOD_US)),
                ("cpu.cfs_quota_us", str(int(limits.cpus * _CPU_PERIOD_US))),
            ]
        case "memory":
            memory, with_swap = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
            settings = [(memory, str(limits.memory_bytes))]
            if (directory / with_swap).exists():
                settings.append((with_swap, str(limits.memory_bytes)))
                # The limit with swap may never be the smaller one, so growing goes the other way round.
                if int((directory / with_swap).read_text()) < limits.memory_bytes:
                    settings.reverse()
            return settings
        case "pids":
            return [("pids.max", str(limits.processes))]
        case _:
            device = _block_device(limits.device)
            values = {"bps": limits.io_bytes_per_second, "iops": limits.io_operations_per_second}
            return [
                (f"blkio.throttle.{direction}_{unit}_device", f"{device} {value}")
                for direction in ("read", "write")
                for unit, value in values.items()
                if device and value is not None
            ]


def _block_device(path: Path | None) -> str | None:
    """``major:minor`` of the whole disk below a file; ``None`` where there is none (tmpfs, btrfs)."""
    if path is None:
        return None
    number = path.stat().st_dev
    entry = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not entry.exists():
        return None
    # Limits are kept by disk: a partition has none of its own.
    disk = entry.resolve().parent if (entry / "partition").exists() else entry
    return (disk / "dev").read_text().strip()


def _mounts(mountinfo: str) -> tuple[Path | None, dict[str, Path]]:
    """Where cgroup v2 and each v1 controller are mounted."""
    unified: Path | None = None
    legacy: dict[str, Path] = {}
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ")[:3]
        where = Path(fields.split(" ")[4].replace("\\040", " "))
        if kind == "cgroup2" and unified is None:
            unified = where
        elif kind == "cgroup":
            for option in options.split(","):
                legacy.setdefault(option, where)
    return unified, legacy


def _words(file: Path) -> set[str]:
    try:
        return set(file.read_text().split())
    except OSError:
        return set()


def _write(file: Path, value: str) -> None:
    try:
        file.write_text(value)
    except OSError as error:
        raise HostFailure(
            f"the kernel refuses {value!r} for {file}: {error.strerror}", code="cgroup_refused"
        ) from error


def _written(file: Path, value: str) -> bool:
    try:
        file.write_text(value)
    except OSError:
        return False
    return True
