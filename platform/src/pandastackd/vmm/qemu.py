"""The QEMU driver: machine ``microvm``, on KVM where that really works, else by software emulation."""

from __future__ import annotations

import asyncio
import re
import shutil
import stat
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pandastackd.errors import HostFailure, VmmFailed
from pandastackd.programs import find_program
from pandastackd.vmm import jail, qemu_command
from pandastackd.vmm.cgroups import CgroupTree, Limits
from pandastackd.vmm.driver import Enclosure, Machine, Vmm, VmmIdentity
from pandastackd.vmm.jail import Inherited, JailedProgram, JailHome
from pandastackd.vmm.processes import WatchedProcess
from pandastackd.vmm.qemu_command import Accelerator
from pandastackd.vmm.qemu_vmm import QemuVmm
from pandastackd.vmm.tsc import measure_tsc_khz

PROGRAM = "qemu-system-x86_64"

_VERSION = re.compile(r"version (\d+\.\d+\.\d+)")
_MIB = 1 << 20
_EMULATOR_CPUS = 0.5
_EMULATOR_THREADS = 96
"""QEMU's own threads: its pool for disk I/O alone may grow to 64."""


@dataclass(frozen=True, slots=True)
class IoLimits:
    """What one sandbox may ask of the host's disk, reads and writes each."""

    bytes_per_second: int = 512 * _MIB
    operations_per_second: int = 20_000


class QemuDriver:
    """A :class:`~pandastackd.vmm.driver.Driver`. Made by :meth:`open`, which looks at the host once."""

    def __init__(
        self,
        *,
        program: Path,
        version: str,
        jail_program: Path,
        cgroups: CgroupTree,
        accelerator: Accelerator,
        tsc_khz: int,
        io: IoLimits,
    ) -> None:
        self._program = program
        self._version = version
        self._jail = jail_program
        self._cgroups = cgroups
        self._accelerator = accelerator
        self._tsc_khz = tsc_khz
        self._io = io

    @classmethod
    async def open(
        cls, accelerator: Accelerator, *, cgroups: CgroupTree | None = None, io: IoLimits | None = None
    ) -> QemuDriver:
        """Find QEMU and the jail, and make our cgroup folder.

        Raises:
            HostFailure: something is missing; says what to install or switch on.
        """
        program, version = await asyncio.to_thread(_find_qemu)
        tree = cgroups if cgroups is not None else await asyncio.to_thread(CgroupTree.open)
        emulated = accelerator.name == "tcg"
        return cls(
            program=program,
            version=version,
            jail_program=find_program("pandastack-jail"),
            cgroups=tree,
            accelerator=accelerator,
            tsc_khz=await asyncio.to_thread(measure_tsc_khz) if emulated else 0,
            io=io or IoLimits(),
        )

    def identity(self) -> VmmIdentity:
        """QEMU's version, accelerator and CPU, and the revision of our machine."""
        return VmmIdentity(
            name="qemu",
            version=self._version,
            accelerator=self._accelerator.name,
            cpu_model=self._accelerator.cpu,
            machine=qemu_command.MACHINE_REVISION,
        )

    async def boot(
        self, machine: Machine, enclosure: Enclosure, *, kernel: Path, initrd: Path, cmdline: str
    ) -> Vmm:
        """Start a machine from its kernel."""
        arguments = qemu_command.arguments(
            machine,
            self._accelerator,
            memory_shared=enclosure.memory_shared,
            boot_cmdline=qemu_command.kernel_cmdline(cmdline, self._accelerator, self._tsc_khz),
        )
        shown = ((kernel, qemu_command.KERNEL_NAME), (initrd, qemu_command.INITRD_NAME))
        return await self._start(machine, enclosure, arguments, shown)

    async def restore(self, machine: Machine, enclosure: Enclosure, *, state: Path) -> Vmm:
        """Load a saved machine and leave it paused."""
        arguments = qemu_command.arguments(
            machine, self._accelerator, memory_shared=enclosure.memory_shared, boot_cmdline=None
        )
        vmm = await self._start(machine, enclosure, arguments, ())
        try:
            await vmm.load_device_state(state)
        except BaseException:
            await asyncio.shield(self._undo(enclosure, vmm))
            raise
        return vmm

    async def adopt(self, enclosure: Enclosure) -> Vmm | None:
        """Find the QEMU that an earlier agent started."""
        jailed = JailHome(enclosure.home).read_pids()
        return await QemuVmm.attach(enclosure, jailed) if jailed is not None else None

    async def clean(self, enclosure: Enclosure) -> None:
        """Kill what is left and remove cgroup and home."""
        home = JailHome(enclosure.home)
        jailed = home.read_pids()
        # By pid as well: a VMM whose cgroup somebody has emptied is still ours.
        for identity in (jailed.supervisor, jailed.process) if jailed else ():
            process = WatchedProcess.open(identity)
            if process is not None:
                process.kill()
                process.close()
        await asyncio.to_thread(self._remove, enclosure, home)

    def _remove(self, enclosure: Enclosure, home: JailHome) -> None:
        cgroup = self._cgroups.get(enclosure.cgroup)
        cgroup.kill()
        cgroup.remove()
        home.remove()

    async def _start(
        self,
        machine: Machine,
        enclosure: Enclosure,
        arguments: list[str],
        shown: tuple[tuple[Path, str], ...],
    ) -> QemuVmm:
        begun = time.perf_counter()
        try:
            jailed = await asyncio.to_thread(self._start_jail, machine, enclosure, arguments, shown)
            vmm = await QemuVmm.attach(enclosure, jailed) or _ended_early(JailHome(enclosure.home))
        except BaseException as error:
            await asyncio.shield(self.clean(enclosure))
            if isinstance(error, OSError):
                raise VmmFailed(f"the VMM was not started: {error}", code="vmm_not_started") from error
            raise
        vmm.started(begun)
        return vmm

    def _start_jail(
        self,
        machine: Machine,
        enclosure: Enclosure,
        arguments: list[str],
        shown: tuple[tuple[Path, str], ...],
    ) -> jail.Jailed:
        home = JailHome(enclosure.home)
        home.make()
        cgroup = self._cgroups.create(enclosure.cgroup, self._limits(machine, enclosure))
        data, control = enclosure.taps
        served = [(qemu_command.MEMORY_NAME, enclosure.memory, enclosure.memory_shared)]
        if self._accelerator.name == "kvm":
            served.append(("/dev/kvm", Path("/dev/kvm"), True))
        program = JailedProgram(
            program=self._program,
            args=arguments,
            home=home,
            uid=enclosure.uid,
            join_files=cgroup.join_files,
            netns=enclosure.netns,
            taps=(Inherited(qemu_command.DATA_TAP_FD, data), Inherited(qemu_command.CONTROL_TAP_FD, control)),
            files=(Inherited(qemu_command.DISK_FD, enclosure.disk),),
            listener_fd=qemu_command.QMP_FD,
            served=served,
            shown=[(_readable(source, home), Path(name)) for source, name in shown],
        )
        return jail.start(self._jail, program)

    def _limits(self, machine: Machine, enclosure: Enclosure) -> Limits:
        return Limits(
            memory_bytes=(machine.memory_mib + enclosure.overhead_mib) * _MIB,
            cpus=machine.vcpus + _EMULATOR_CPUS,
            processes=machine.vcpus + _EMULATOR_THREADS,
            io_bytes_per_second=self._io.bytes_per_second,
            io_operations_per_second=self._io.operations_per_second,
            device=enclosure.disk,
        )

    async def _undo(self, enclosure: Enclosure, vmm: QemuVmm) -> None:
        await vmm.detach()
        await self.clean(enclosure)


def _readable(source: Path, home: JailHome) -> Path:
    """``source``, or a copy of it in ``home`` if the jailed user could not read the original."""
    if source.stat().st_mode & stat.S_IROTH:
        return source
    copy = home.path / source.name
    shutil.copyfile(source, copy)
    copy.chmod(0o444)
    return copy


def _ended_early(home: JailHome) -> NoReturn:
    reason = home.complaint() or "it gave no reason"
    raise VmmFailed(f"QEMU ended at its start ({home.read_exit()}): {reason}", code="vmm_not_started")


def _find_qemu() -> tuple[Path, str]:
    found = shutil.which(PROGRAM)
    if found is None:
        raise HostFailure(
            f"{PROGRAM} is not installed; run `apt-get install qemu-system-x86`", code="qemu_missing"
        )
    said = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=30, check=False)
    version = _VERSION.search(said.stdout)
    if version is None:
        raise HostFailure(
            f"{found} does not say its version: {said.stderr.strip()[:200]}", code="qemu_broken"
        )
    program = Path(found).resolve()
    if not program.is_relative_to("/usr"):
        raise HostFailure(
            f"{program} lies outside /usr, which is all a jailed process sees", code="qemu_misplaced"
        )
    return program, version[1]
