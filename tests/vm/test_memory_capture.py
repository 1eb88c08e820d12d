"""The memory path against a real QEMU and a real reflink file system: every byte, every time.

Needs root, QEMU, XFS and a built `pandastack-memory`; no template. QEMU runs no guest: memory is written and read back
through its debugger port and its monitor, so that what is compared is what QEMU itself says.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pandastackd.disk.reflink import allocated_bytes, clone
from pandastackd.errors import InsufficientStorage, VmmFailed
from pandastackd.programs import find_program
from pandastackd.snapshot import MemoryTool
from pandastackd.snapshot.capture import capture
from pandastackd.vmm.driver import MemoryMapping, VmmExit, VmmTiming
from pandastackd.vmm.memory_map import find_mapping

pytestmark = [pytest.mark.anyio, pytest.mark.needs("root", "qemu-system-x86_64", "mkfs.xfs")]

MIB = 1 << 20
GIB = 1 << 30
PAGE = 4096


@pytest.fixture
def tool() -> MemoryTool:
    return MemoryTool(find_program("pandastack-memory"))


@pytest.fixture
def xfs(tmp_path: Path) -> Iterator[Path]:
    """An empty file system that can reflink."""
    image, point = tmp_path / "image", tmp_path / "xfs"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(8 * GIB)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True)


class _Wire:
    """A unix socket of QEMU's, connected once it is there."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        for _ in range(500):
            try:
                self.sock.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(0.02)
        self.file = self.sock.makefile("rb")


class BareQemu:
    """A QEMU with memory, no guest and stopped processors; its RAM is a private mapping of ``memory``."""

    def __init__(self, home: Path, memory: Path) -> None:
        self.memory = memory
        self.size = memory.stat().st_size
        qmp, gdb = home / "q", home / "g"
        self.process = subprocess.Popen(
            [
                "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-S",
                "-machine", "microvm,memory-backend=ram", "-accel", "tcg", "-m", f"{self.size // MIB}M",
                "-object", f"memory-backend-file,id=ram,size={self.size},mem-path={memory},share=off",
                "-qmp", f"unix:{qmp},server=on,wait=off",
                "-chardev", f"socket,id=g,path={gdb},server=on,wait=off", "-gdb", "chardev:g",
            ]
        )  # fmt: skip
        self._qmp = _Wire(qmp)
        self._qmp.file.readline()
        self.monitor("qmp_capabilities")
        self._gdb = _Wire(gdb)
        self._packet("qSupported")
        assert self._packet("Qqemu.PhyMemMode:1") == b"OK"

    def monitor(self, command: str, **arguments: object) -> None:
        """One QMP command."""
        self._qmp.sock.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            answer = json.loads(self._qmp.file.readline())
            if "event" not in answer:
                assert "return" in answer, answer
                return

    def _packet(self, body: str) -> bytes:
        """One packet of the debugger's protocol and its answer."""
        self._gdb.sock.sendall(f"${body}#{sum(body.encode()) % 256:02x}".encode())
        while self._gdb.file.read(1) != b"$":
            pass
        answer = b""
        while (byte := self._gdb.file.read(1)) != b"#":
            answer += byte
        self._gdb.file.read(2)
        self._gdb.sock.sendall(b"+")
        return answer

    def write(self, address: int, data: bytes) -> None:
        """Write physical memory, as a guest would."""
        for start in range(0, len(data), 1024):
            piece = data[start : start + 1024]
            assert self._packet(f"M{address + start:x},{len(piece):x}:{piece.hex()}") == b"OK"

    def dump(self, address: int, size: int, path: Path) -> bytes:
        """What QEMU says is in physical memory."""
        self.monitor("pmemsave", val=address, size=size, filename=str(path))
        data = path.read_bytes()
        path.unlink()
        return data

    # What a capture asks of a VMM.

    timing = VmmTiming()

    @property
    def pid(self) -> int:
        return self.process.pid

    def memory_mapping(self) -> MemoryMapping:
        return find_mapping(self.pid, self.memory)

    async def pause(self) -> None:
        self.monitor("stop")

    async def resume(self) -> None:
        """Nothing to run: the processors stay where they are."""

    async def save_device_state(self, path: Path) -> None:
        self.monitor("xen-save-devices-state", filename=str(path), live=False)

    async def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    async def wait(self) -> VmmExit:
        return VmmExit(code=self.process.wait())

    def console_tail(self, lines: int = 40) -> str:
        return f"no console, {lines} lines of it"


@pytest.fixture
def machine(xfs: Path, request: pytest.FixtureRequest) -> Iterator[BareQemu]:
    """A machine of so many bytes over a base file with some content."""
    size: int = request.param
    base = xfs / "base"
    with base.open("wb") as file:
        file.truncate(size)
        for place in range(2 * MIB, 32 * MIB, 64 * 1024):
            os.pwrite(file.fileno(), place.to_bytes(8, "little") * 1024, place)
    (xfs / "disk-in").write_bytes(b"\7" * MIB)
    qemu = BareQemu(xfs, base)
    try:
        yield qemu
    finally:
        qemu.process.kill()
        qemu.process.wait()


def draft(xfs: Path, name: str) -> Path:
    path = xfs / name
    path.mkdir()
    return path


def same(left: bytes, right: bytes) -> bool:
    """Equality, without pytest printing megabytes when there is none."""
    return left == right


@pytest.mark.parametrize("machine", [64 * MIB], indirect=True, ids=["64MiB"])
async def test_the_copy_is_what_qemu_says_memory_is(xfs: Path, machine: BareQemu, tool: MemoryTool) -> None:
    before = machine.memory.read_bytes()
    chance = random.Random(1)
    for _ in range(300):
        place = chance.randrange(MIB, 64 * MIB - 9000)
        machine.write(place, chance.randbytes(chance.choice([1, 100, 4096, 9000])))
    machine.write(4 * MIB, b"\0" * 300_000)
    first = draft(xfs, "first")
    timing = await capture(machine, disk=xfs / "disk-in", base_memory=machine.memory, draft=first, tool=tool)
    said = machine.dump(MIB, 63 * MIB, xfs / "dump")
    assert same((first / "memory").read_bytes()[MIB:], said)
    assert same(machine.memory.read_bytes(), before)
    assert 300 <= timing.memory.pages < 2000
    assert (first / "state").stat().st_size > 0
    assert same((first / "disk").read_bytes(), b"\7" * MIB)

    # What is written afterwards is in a second capture, and not in the first.
    machine.write(10 * MIB, b"later" * 1000)
    second = draft(xfs, "second")
    await capture(machine, disk=xfs / "disk-in", base_memory=machine.memory, draft=second, tool=tool)
    assert same((second / "memory").read_bytes()[MIB:], machine.dump(MIB, 63 * MIB, xfs / "dump"))
    assert same((first / "memory").read_bytes()[MIB:], said)


@pytest.mark.parametrize("machine", [5 * GIB], indirect=True, ids=["5GiB"])
async def test_a_big_guest_loses_nothing_above_three_gibibytes(
    xfs: Path, machine: BareQemu, tool: MemoryTool
) -> None:
    chance = random.Random(2)
    # The machine has 3 GiB below the hole for devices and the rest above 4 GiB.
    places = [MIB, 2 * GIB - 5, 3 * GIB - PAGE, 4 * GIB, 5 * GIB + 77, 6 * GIB - PAGE]
    for place in places:
        machine.write(place, chance.randbytes(PAGE))
    out = draft(xfs, "out")
    timing = await capture(machine, disk=xfs / "disk-in", base_memory=machine.memory, draft=out, tool=tool)
    with (out / "memory").open("rb") as memory:
        for place in places:
            offset = place if place < 3 * GIB else place - GIB
            assert same(os.pread(memory.fileno(), PAGE, offset), machine.dump(place, PAGE, xfs / "dump")), (
                hex(place)
            )
    assert timing.memory.pages < 200
    assert allocated_bytes(out / "memory") < 64 * MIB


@pytest.mark.parametrize("machine", [64 * MIB], indirect=True, ids=["64MiB"])
async def test_a_line_of_captures_each_based_on_the_last(
    xfs: Path, machine: BareQemu, tool: MemoryTool
) -> None:
    """Forks of forks: each child runs on its parent's capture, and writes of its own."""
    chance, qemu = random.Random(3), machine
    for generation in range(6):
        for _ in range(40):
            qemu.write(chance.randrange(MIB, 63 * MIB), chance.randbytes(chance.choice([8, 5000])))
        out = draft(xfs, f"generation{generation}")
        await capture(qemu, disk=xfs / "disk-in", base_memory=qemu.memory, draft=out, tool=tool)
        said = qemu.dump(MIB, 63 * MIB, xfs / "dump")
        await qemu.stop()
        for name in ("q", "g"):
            (xfs / name).unlink(missing_ok=True)
        qemu = BareQemu(xfs, out / "memory")
        try:
            assert same(qemu.dump(MIB, 63 * MIB, xfs / "dump"), said), f"generation {generation}"
        except BaseException:
            await qemu.stop()
            raise
    await qemu.stop()


@pytest.mark.parametrize("machine", [64 * MIB], indirect=True, ids=["64MiB"])
async def test_a_vmm_that_dies_is_told_apart(xfs: Path, machine: BareQemu, tool: MemoryTool) -> None:
    machine.write(MIB, b"x" * 100)
    clone(machine.memory, xfs / "copy")
    async with tool.armed(machine.memory_mapping(), xfs / "copy", used=xfs / "used") as armed:
        await machine.stop()
        with pytest.raises(VmmFailed):
            await armed.fire()


async def test_a_full_disk_is_said_to_be_full_and_the_machine_runs(tmp_path: Path, tool: MemoryTool) -> None:
    """On a tmpfs, where a copy stands for the clone: only the tool's own writes matter here."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", small], check=True)
    script = (
        "import mmap, sys\n"
        "f = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 0, flags=mmap.MAP_PRIVATE)\n"
        "m[:] = b'\\1' * len(m); print('ready', flush=True); sys.stdin.read()\n"
    )
    base, out = tmp_path / "base", small / "out"
    for path in (base, out):
        with path.open("wb") as file:
            file.truncate(16 * MIB)
    child = subprocess.Popen(
        [sys.executable, "-c", script, base], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(InsufficientStorage):
            async with tool.armed(find_mapping(child.pid, base), out, used=small / "used") as armed:
                await armed.fire()
    finally:
        child.communicate()
        subprocess.run(["umount", small], check=True)


async def test_a_writer_is_caught_at_one_instant(xfs: Path, tool: MemoryTool) -> None:
    """A process that never stops writing, paused by a signal: the copy is one moment of it, not a smear."""
    script = (
        "import mmap, sys\n"
        "f = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 0, flags=mmap.MAP_PRIVATE); n = 0\n"
        # One store a page: struct.pack_into writes zeros first, and may be stopped just then.
        "words = memoryview(m).cast('Q')\n"
        "while True:\n"
        "    n += 1\n"
        "    for place in range(0, len(words), 512): words[place] = n\n"
        "    if n == 2: print('ready', flush=True)\n"
    )
    base = xfs / "base"
    with base.open("wb") as file:
        file.truncate(32 * MIB)
    child = subprocess.Popen([sys.executable, "-c", script, base], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        for turn in range(5):
            await asyncio.sleep(0.02)
            clone(base, xfs / f"copy{turn}")
            async with tool.armed(
                find_mapping(child.pid, base), xfs / f"copy{turn}", used=xfs / "used"
            ) as armed:
                child.send_signal(signal.SIGSTOP)
                os.waitpid(child.pid, os.WUNTRACED)
                await armed.fire()
                child.send_signal(signal.SIGCONT)
            data = (xfs / f"copy{turn}").read_bytes()
            counts = [
                int.from_bytes(data[place : place + 8], "little") for place in range(0, len(data), PAGE)
            ]
            assert counts == sorted(counts, reverse=True)
            assert counts[0] - counts[-1] in {0, 1}
            assert counts[-1] >= 1
    finally:
        child.kill()
        child.wait()
        child.stdout.close() if child.stdout else None
