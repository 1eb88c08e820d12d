"""Checks of what runs the guests: KVM that really works, and QEMU."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from pandastackd.config import Settings
from pandastackd.doctor.finding import Finding, fail, ok, warn
from pandastackd.vmm.probe import probe_kvm

QEMU = "qemu-system-x86_64"
LEAST_QEMU = (7, 0)
_EMULATION = (
    "guests run under software emulation: slower, and the wall around them is an ordinary process instead"
    " of the processor; fit for development, CI and trying it out, not for other people's code"
)


def kvm(settings: Settings) -> Finding:
    """Whether a guest loop really runs at hardware speed; that the device exists says nothing."""
    if settings.accelerator == "tcg":
        return warn("kvm", f"PANDASTACK_ACCELERATOR=tcg: {_EMULATION}", "unset it to use KVM where it works")
    report = probe_kvm()
    if report.usable:
        return ok("kvm", report.explanation)
    remedy = (
        f"use {'a host with nested virtualization' if _is_virtual() else 'a machine with virtualization'}"
    )
    if settings.accelerator == "kvm":
        return fail("kvm", f"{report.explanation}; PANDASTACK_ACCELERATOR=kvm demands it", remedy)
    return warn("kvm", f"{report.explanation}. So {_EMULATION}", remedy)


def qemu(_: Settings) -> Finding:
    """Whether QEMU is there, new enough, and has the machine type that we use."""
    if shutil.which(QEMU) is None:
        return fail(
            "qemu",
            f"{QEMU} is missing: no guest can run",
            "`make setup`, or `apt-get install qemu-system-x86`",
        )
    version = _output(QEMU, "--version")
    found = re.search(r"version (\d+)\.(\d+)\S*", version)
    if found is None or (int(found[1]), int(found[2])) < LEAST_QEMU:
        least = ".".join(map(str, LEAST_QEMU))
        return warn(
            "qemu",
            f"{found[0] if found else 'unknown version'}: tested from {least} on",
            "use Debian 12 or Ubuntu 24.04, or newer, if guests do not start",
        )
    if "microvm" not in _output(QEMU, "-machine", "help"):
        return fail(
            "qemu",
            f"{found[0]} has no machine type microvm",
            "install the distribution's own qemu-system-x86",
        )
    return ok("qemu", f"{QEMU} {found[0]} with the machine type microvm")


def _is_virtual() -> bool:
    return " hypervisor" in Path("/proc/cpuinfo").read_text()


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
