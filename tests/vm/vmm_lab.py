"""What the tests of the VMM room stand on: a guest of fifty bytes, taps in a namespace, enclosures, a cgroup tree.

The guest is a Linux boot image to QEMU and real-mode code to itself. It counts through the alphabet for ever, once in
a register and once in memory, and writes both to the serial console: ``AA``, ``BB``, ``CC`` … So a restored guest
shows by its first line whether CPU and memory both came back.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import struct
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pandastackd.programs import find_program
from pandastackd.vmm import Enclosure, Machine, Vmm
from pandastackd.vmm.cgroups import Cgroup, CgroupTree, Limits
from pandastackd.vmm.jail import Jailed, JailedProgram, JailHome, start
from pandastackd.vmm.processes import start_time
from pandastackd.vmm.qemu import QemuDriver
from pandastackd.vmm.qemu_command import TCG

LETTER_ADDRESS = 0x500
MACHINE = Machine(vcpus=1, memory_mib=64)
FIRST_UID = 1_800_000_000
_TURNS_A_LETTER = 2_000_000


def tiny_kernel() -> bytes:
    """The guest, as a boot image with a setup header of protocol 2.6."""
    call_put = b"\xe8"
    body = b"".join(
        [
            b"\x31\xc0\x8e\xd8",  # xor ax, ax; mov ds, ax
            b"\xb3A",  # mov bl, 'A'
            b"\xc6\x06\x00\x05A",  # mov byte [0x500], 'A'
        ]
    )
    loop = len(body)
    put_calls = []
    for load in (b"\x88\xd8", b"\xa0\x00\x05", b"\xb0\n"):  # al = bl; al = [0x500]; al = newline
        body += load + call_put
        put_calls.append(len(body))
        body += b"\0\0"
    body += b"\xfe\xc3\x80\xfb[\x75\x02\xb3A"  # inc bl; after 'Z' comes 'A'
    body += b"\xfe\x06\x00\x05\x80\x3e\x00\x05[\x75\x05\xc6\x06\x00\x05A"  # the same for [0x500]
    body += b"\x66\xb9" + struct.pack("<I", _TURNS_A_LETTER) + b"\x66\x49\x75\xfc"  # a short while
    body += b"\xe9" + struct.pack("<h", loop - len(body) - 3)  # for ever
    put = len(body)
    # ah = al; wait until the serial port takes one more; out
    body += b"\x88\xc4\xba\xfd\x03\xec\xa8\x20\x74\xfb\x88\xe0\xba\xf8\x03\xee\xc3"
    code = bytearray(body)
    for at in put_calls:
        code[at : at + 2] = struct.pack("<h", put - at - 2)
    image = bytearray(1024 + 4096)
    image[0x1F1] = 1  # one sector of setup code after the boot sector
    image[0x1FE:0x200] = b"\x55\xaa"
    image[0x200:0x202] = b"\xeb\x7e"  # jump over the header
    image[0x202:0x206] = b"HdrS"
    image[0x206:0x208] = struct.pack("<H", 0x0206)
    image[0x211] = 1  # loaded high
    image[0x22C:0x230] = struct.pack("<I", 0x37FFFFFF)
    image[0x238:0x23C] = struct.pack("<I", 255)
    image[0x280 : 0x280 + len(code)] = code
    return bytes(image)


def run(*command: str) -> str:
    """Run a tool and return what it printed."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def namespaces_of(pid: int) -> dict[str, int]:
    """Inode numbers of a process's namespaces, by kind."""
    return {entry.name: entry.stat().st_ino for entry in Path(f"/proc/{pid}/ns").iterdir()}


def status_of(pid: int) -> dict[str, str]:
    """``/proc/<pid>/status`` as a dictionary."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    return start_time(pid) is not None and not status_of(pid)["State"].startswith("Z")


async def eventually(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Wait for ``condition``; fails with ``what`` when it does not come true."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"never happened: {what}"
        await asyncio.sleep(0.01)


@dataclass
class Lab:
    """One test's surroundings; everything made here is removed by :func:`lab`."""

    folder: Path
    netns: str
    tree: CgroupTree
    driver: QemuDriver
    enclosures: list[Enclosure] = field(default_factory=list)

    def enclosure(self, name: str, *, memory: Path | None = None, disk: Path | None = None) -> Enclosure:
        """A new enclosure. Without ``memory`` it gets a file of its own that is shared with the guest."""
        sandbox = self.folder / name
        sandbox.mkdir(mode=0o700)
        own_disk = sandbox / "disk"
        own_disk.touch(0o600)
        os.truncate(own_disk, 16 << 20)
        if memory is None:
            (sandbox / "memory").touch(0o600)
            os.truncate(sandbox / "memory", MACHINE.memory_mib << 20)
        number = len(self.enclosures)
        taps = (f"data{number}", f"control{number}")
        for tap in taps:
            run("ip", "-n", self.netns, "tuntap", "add", tap, "mode", "tap", "vnet_hdr")
        enclosure = Enclosure(
            home=sandbox / "vmm",
            uid=FIRST_UID + number,
            netns=Path("/run/netns", self.netns),
            taps=taps,
            disk=disk or own_disk,
            memory=memory or sandbox / "memory",
            memory_shared=memory is None,
            cgroup=f"lab-{name}",
        )
        self.enclosures.append(enclosure)
        return enclosure

    async def boot(self, enclosure: Enclosure) -> Vmm:
        """Boot the tiny guest and wait for its first words."""
        kernel, initrd = self.folder / "kernel", self.folder / "initrd"
        kernel.write_bytes(tiny_kernel())
        initrd.write_bytes(b"unused")
        vmm = await self.driver.boot(MACHINE, enclosure, kernel=kernel, initrd=initrd, cmdline="")
        await self.says(enclosure, "BB")
        return vmm

    async def baked(self) -> tuple[Path, Path, str]:
        """Memory file and device state of a guest frozen in the middle of its counting, and what it had said."""
        enclosure = self.enclosure("template")
        vmm = await self.boot(enclosure)
        await vmm.pause()
        await vmm.save_device_state(self.folder / "state")
        await vmm.stop()
        said = console(enclosure)
        await self.driver.clean(enclosure)
        return enclosure.memory, self.folder / "state", said

    async def says(self, enclosure: Enclosure, text: str) -> None:
        """Wait until the console shows ``text``."""
        await eventually(lambda: text in console(enclosure), f"{text!r} on the console")

    def jailed(
        self, enclosure: Enclosure, *command: str, limits: Limits, **wishes: object
    ) -> tuple[Jailed, Cgroup]:
        """Run a program of the host in the jail instead of a VMM."""
        home = JailHome(enclosure.home)
        home.make()
        cgroup = self.tree.create(enclosure.cgroup, limits)
        program = JailedProgram(
            program=Path(command[0]),
            args=command[1:],
            home=home,
            uid=enclosure.uid,
            join_files=cgroup.join_files,
            netns=enclosure.netns,
        )
        return start(find_program("pandastack-jail"), replace(program, **wishes)), cgroup


def console(enclosure: Enclosure) -> str:
    """All that is in the console's log."""
    return JailHome(enclosure.home).console.read_text(errors="replace")


def digest(path: Path) -> str:
    """Checksum of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@asynccontextmanager
async def lab(folder: Path) -> AsyncIterator[Lab]:
    """Surroundings for one test, all of it gone afterwards, whatever the test did."""
    netns = f"vmm-lab-{os.getpid()}"
    run("ip", "netns", "add", netns)
    try:
        tree = CgroupTree.open(netns)
        made = Lab(folder, netns, tree, await QemuDriver.open(TCG, cgroups=tree))
        try:
            yield made
        finally:
            for enclosure in made.enclosures:
                await made.driver.clean(enclosure)
            assert tree.names() == set()
            tree.remove()
    finally:
        run("ip", "netns", "del", netns)
