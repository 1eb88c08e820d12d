"""QEMU's command line: machine ``microvm``, every device named, in an order that never changes.

The order of the devices is the order of their addresses, and a saved device state can only be loaded into the
very same machine: whatever changes here must change :data:`MACHINE_REVISION`, which is part of every
snapshot's identity.
"""

from __future__ import annotations

from dataclasses import dataclass

from pandastackd.vmm.driver import Machine

MACHINE_REVISION = "microvm-1"

DATA_MAC = "02:50:53:00:00:02"
CONTROL_MAC = "02:50:53:00:01:02"

DATA_TAP_FD = 10
CONTROL_TAP_FD = 11
QMP_FD = 12
DISK_FD = 13
_DISK_SET = 1
FIRST_FREE_SET = 2
"""Sets of descriptors from this number on are for what is handed over while QEMU runs."""

MEMORY_NAME = "/vm/memory"
KERNEL_NAME = "/vm/kernel"
INITRD_NAME = "/vm/initrd"

_SECCOMP = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True, slots=True)
class Accelerator:
    """How guest code is executed, and the CPU the guest sees."""

    name: str
    options: str
    cpu: str


KVM = Accelerator("kvm", "kvm", "host")
# A plain CPU: each feature costs the emulator time on every context switch, and this one still satisfies what
# binary packages are built for (x86-64-v2).
# With ARAT the kernel trusts the processor's timer while idle: it needs no periodic tick, and times to the nanosecond.
# The translation cache is bounded, since its default, up to 1 GiB, would be the largest part of a small sandbox.
TCG = Accelerator("tcg", "tcg,tb-size=256", "Nehalem-v1,+arat")

_MACHINE_OPTIONS = ",".join(
    [
        "microvm",
        # A stock kernel finds the devices through ACPI, and its timer among these three.
        *("acpi=on", "pic=on", "pit=on", "rtc=on"),
        *("isa-serial=on", "usb=off"),
        "memory-backend=ram",
        # One sandbox must not learn from timing what another has in memory, nor leave it in a dump.
        *("mem-merge=off", "dump-guest-core=off"),
        "suppress-vmdesc=on",
    ]
)

_DISK_OPTIONS = ",".join(
    [
        *("driver=raw", "node-name=disk"),
        *("file.driver=file", f"file.filename=/dev/fdset/{_DISK_SET}", "file.aio=threads"),
        # What the guest frees or zeroes becomes a hole again.
        *("discard=unmap", "file.discard=unmap", "detect-zeroes=unmap"),
        # A sandbox does not outlive its host's crash, so neither need its flushes: its disk is made durable
        # when a snapshot is taken.
        "cache.no-flush=on",
        # Else loading a state first writes all of a fresh clone to the disk and then forgets its cached
        # pages.
        "file.drop-cache=off",
    ]
)

_TCG_KERNEL_ARGUMENTS = "mitigations=off nopti tsc=reliable clocksource=tsc"
# Accounting of pressure is work at every switch of tasks, and nobody reads it.
_KERNEL_ARGUMENTS = "console=ttyS0 quiet reboot=t panic=-1 psi=0"


def kernel_cmdline(wanted: str, accelerator: Accelerator, tsc_khz: int) -> str:
    """``wanted`` with what the machine itself needs: a console, an end at a panic, a clock.

    Emulation has no hardware whose bugs need mitigating, and no timer to calibrate the counter against.
    """
    parts = [_KERNEL_ARGUMENTS]
    if accelerator.name == "tcg":
        parts += [_TCG_KERNEL_ARGUMENTS, f"tsc_early_khz={tsc_khz}"]
    return " ".join([*parts, wanted]).strip()


def arguments(
    machine: Machine, accelerator: Accelerator, *, memory_shared: bool, boot_cmdline: str | None
) -> list[str]:
    """Arguments for one VMM; with ``boot_cmdline`` it boots, without it waits for a device state."""
    share = "on" if memory_shared else "off"
    return [
        *("-name", "pandastack,debug-threads=on"),
        *("-sandbox", _SECCOMP),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-machine", _MACHINE_OPTIONS),
        *("-accel", accelerator.options, "-cpu", accelerator.cpu),
        *("-smp", f"{machine.vcpus}", "-m", f"{machine.memory_mib}M"),
        *(
            "-object",
            f"memory-backend-file,id=ram,mem-path={MEMORY_NAME},size={machine.memory_mib}M,share={share}",
        ),
        # Without it the loader asks for sections that a state saved without RAM does not have.
        *("-global", "migration.send-configuration=off"),
        # A restored guest need not tell a network where it moved to: its neighbour is the host, and expects it.
        *("-global", "migration.announce-rounds=0"),
        *("-chardev", f"socket,id=qmp,fd={QMP_FD},server=on,wait=off", "-mon", "chardev=qmp,mode=control"),
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
        *("-add-fd", f"fd={DISK_FD},set={_DISK_SET}"),
        *("-blockdev", _DISK_OPTIONS),
        *("-device", "virtio-blk-device,drive=disk"),
        *_nic("data", DATA_TAP_FD, DATA_MAC),
        *_nic("control", CONTROL_TAP_FD, CONTROL_MAC),
        *("-object", "rng-builtin,id=entropy", "-device", "virtio-rng-device,rng=entropy"),
        *(
            ("-kernel", KERNEL_NAME, "-initrd", INITRD_NAME, "-append", boot_cmdline)
            if boot_cmdline is not None
            else ("-S", "-incoming", "defer")
        ),
    ]


def _nic(name: str, fd: int, mac: str) -> tuple[str, ...]:
    return (
        *("-netdev", f"tap,id={name},fd={fd},vhost=off"),
        *("-device", f"virtio-net-device,netdev={name},mac={mac}"),
    )
