"""guest-init in a real machine: from the kernel's first instruction to the guest agent, and to the end of the machine.

Needs root, QEMU, mmdebstrap with the keys of Debian's current release (for the kernel; a minute's download the first
time), e2fsprogs, a static busybox and the built ``guest-init``. The root file system is busybox and the guest agent a
shell script that says on the console what it sees, so that this tests PID 1 and nothing else.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import pytest

from pandastackd.config import Settings
from pandastackd.network.addresses import guest_network_arguments
from pandastackd.template import debian
from pandastackd.template.image import make_image
from pandastackd.template.initramfs import GuestPrograms, build_initramfs
from pandastackd.template.kernel import Kernel, fetch_kernel
from pandastackd.template.recipe import DEFAULT_SUITE
from pandastackd.vmm.qemu_command import CONTROL_MAC, DATA_MAC, TCG, kernel_cmdline
from pandastackd.vmm.tsc import measure_tsc_khz

pytestmark = pytest.mark.needs("qemu-system-x86_64", "mmdebstrap", "mke2fs", "busybox")

DEADLINE_SECONDS = 120
QEMU = (
    *("qemu-system-x86_64", "-machine", "microvm,acpi=on,pic=on,pit=on,rtc=on,isa-serial=on"),
    *("-accel", TCG.options, "-cpu", TCG.cpu, "-m", "256", "-smp", "1"),
    *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"),
    *("-device", "virtio-rng-device"),
)


@dataclass(frozen=True)
class Parts:
    """What every boot here shares."""

    kernel: Kernel
    disk: Path


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """The guest's kernel, and a disk with busybox on it."""
    scratch = tmp_path_factory.mktemp("guest")
    root = scratch / "root"
    for folder in ("bin", "etc", "dev", "proc", "sys", "run"):
        (root / folder).mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox
    shutil.copy(busybox, root / "bin/busybox")
    for applet in ("sh", "ip", "nsenter", "cat", "sleep", "kill", "ps", "readlink", "mount", "seq", "true"):
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/hostname").write_text("boot-test\n")
    (root / "etc/precious").write_text("precious\n")
    (root / "etc/resolv.conf").symlink_to("precious")
    disk = scratch / "disk.ext4"
    # The platform's own cache, so that the kernel is fetched once a machine and not once a run.
    kernels = Settings().cache_dir / "kernel"
    kernels.mkdir(parents=True, exist_ok=True)

    async def make() -> Kernel:
        await make_image(root, disk, 64)
        return await fetch_kernel(await debian.archive(DEFAULT_SUITE), kernels)

    return Parts(anyio.run(make), disk)


Boot = Callable[..., str]


@pytest.fixture
def boot(parts: Parts, tmp_path: Path) -> Boot:
    """Boots a machine whose guest agent is the given shell script, and returns its console once it has ended."""

    def run(
        agent: str,
        *,
        disk: bool = True,
        network: str | None = None,
        macs: tuple[str, str] = (DATA_MAC, CONTROL_MAC),
    ) -> str:
        script = tmp_path / "agent"
        script.write_text(f"#!/bin/sh\n{agent}\n")
        initramfs = tmp_path / "initramfs"
        build_initramfs(replace(GuestPrograms.built(), agent=script), parts.kernel.modules, initramfs)
        arguments = guest_network_arguments() if network is None else network
        command = [*QEMU, "-kernel", str(parts.kernel.bzimage), "-initrd", str(initramfs)]
        command += ["-append", kernel_cmdline(arguments, TCG, measure_tsc_khz())]
        if disk:
            shutil.copy(parts.disk, tmp_path / "disk.ext4")
            command += ["-drive", f"id=disk,if=none,format=raw,file={tmp_path}/disk.ext4"]
            command += ["-device", "virtio-blk-device,drive=disk"]
        for number, mac in enumerate(macs):
            command += ["-netdev", f"user,id=n{number},restrict=on"]
            command += ["-device", f"virtio-net-device,netdev=n{number},mac={mac}"]
        # The machine ends by itself: one that hangs is killed and fails the test.
        ended = subprocess.run(command, capture_output=True, timeout=DEADLINE_SECONDS, check=True)
        return ended.stdout.decode(errors="replace").replace("\r", "")

    return run


LOOK = """
say() { echo "probe $1: $(shift; "$@" 2>&1 | busybox tr '\\n' ' ')"; }
say arguments echo "$@"
say control busybox ip -o -4 address
say control-routes busybox ip route
say data busybox nsenter --net=/proc/1/ns/net busybox ip -o -4 address
say data-routes busybox nsenter --net=/proc/1/ns/net busybox ip route
say resolver cat /etc/resolv.conf
say precious cat /etc/precious
say controllers cat /sys/fs/cgroup/pandastack/cgroup.controllers
say hostname busybox hostname
say mounts cat /proc/mounts
say inits busybox ls /run/pandastack
"""
STOP = "kill -TERM 1; sleep 60"


def probes(console: str) -> dict[str, str]:
    """What the script said, by name."""
    lines = (line.removeprefix("probe ") for line in console.splitlines() if line.startswith("probe "))
    return {name: said.strip() for name, _, said in (line.partition(":") for line in lines)}


@pytest.mark.parametrize("macs", [(DATA_MAC, CONTROL_MAC), (CONTROL_MAC, DATA_MAC)])
def test_the_agent_finds_a_machine_set_up(boot: Boot, macs: tuple[str, str]) -> None:
    seen = probes(boot(LOOK + STOP, macs=macs))
    assert seen["arguments"] == (
        "--public 169.254.77.2:49983 --control 169.254.77.2:49984 --workload-netns /proc/1/ns/net"
    )
    assert "169.254.77.2/30" in seen["control"]
    assert "10.200.0.2" not in seen["control"], "the agent's namespace has the workload's NIC in it"
    assert "default" not in seen["control-routes"], "the control NIC must lead nowhere but to the host"
    assert "eth0    inet 10.200.0.2/30" in seen["data"]
    assert "169.254.77.2" not in seen["data"], "the workload sees the agent's NIC"
    assert seen["data-routes"].startswith("default via 10.200.0.1 dev eth0")
    assert seen["resolver"].startswith("nameserver ")
    assert seen["precious"] == "precious", "resolv.conf was written through a link"
    assert set(seen["controllers"].split()) >= {"cpu", "memory", "pids"}
    assert seen["hostname"] == "boot-test"
    assert "/dev/vda / ext4 rw,noatime" in seen["mounts"]
    assert "cgroup2 /sys/fs/cgroup cgroup2" in seen["mounts"]
    assert "/tmp " not in seen["mounts"], "/tmp belongs on the disk, where space is"
    assert seen["inits"] == "guest-agent identity init kernel-random.so"


def test_the_end_is_orderly_and_leaves_a_clean_disk(boot: Boot, tmp_path: Path) -> None:
    stubborn = "(trap '' TERM; while true; do sleep 1; done) &\n"
    console = boot(f"{stubborn} echo kept > /etc/kept; {STOP}")
    assert "asked to end" in console
    disk = tmp_path / "disk.ext4"
    state = subprocess.run(["dumpe2fs", "-h", str(disk)], capture_output=True, text=True, check=True).stdout
    assert "needs_recovery" not in state
    kept = subprocess.run(
        ["debugfs", "-R", "cat /etc/kept", str(disk)], capture_output=True, text=True, check=True
    )
    assert kept.stdout == "kept\n"


def test_an_agent_that_ends_is_started_again_in_its_namespace(boot: Boot) -> None:
    count = (
        "echo x >> /run/lives; lives=$(busybox wc -l < /run/lives);"
        ' echo "probe life$lives: $(readlink /proc/self/ns/net)"'
    )
    console = boot(f"{count}; [ $lives -lt 3 ] && exit 7; [ $lives -lt 4 ] && kill -KILL $$; {STOP}")
    seen = probes(console)
    assert len({seen[f"life{number}"] for number in (1, 2, 3, 4)}) == 1
    assert console.count("the guest agent ended (exit code 7); starting it again in") == 2
    assert "the guest agent ended (SIGKILL)" in console


def test_orphans_are_reaped(boot: Boot) -> None:
    orphans = "for i in $(seq 20); do (true & exec true) & done; sleep 1"
    seen = probes(boot(f'{orphans}; echo "probe zombies: $(ps -o stat | busybox grep -c Z)"; {STOP}'))
    assert seen["zombies"] == "0"


def test_a_machine_without_a_disk_says_so_and_ends(boot: Boot) -> None:
    assert "fatal: the disk /dev/vda did not appear" in boot(STOP, disk=False)


def test_a_machine_without_a_plan_says_so_and_ends(boot: Boot) -> None:
    assert "fatal: the kernel command line has no pandastack.data=" in boot(
        STOP, network="pandastack.dns=10.0.0.1"
    )


def test_a_machine_without_its_nic_says_so_and_ends(boot: Boot) -> None:
    console = boot(STOP, macs=(DATA_MAC, "02:00:00:00:00:01"))
    assert f"fatal: no network card with the address {CONTROL_MAC} appeared" in console
