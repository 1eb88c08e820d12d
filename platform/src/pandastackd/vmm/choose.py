"""Picking the driver for this host: the one place that knows them all."""

from __future__ import annotations

import asyncio

import structlog

from pandastackd.config import Settings
from pandastackd.errors import HostFailure
from pandastackd.vmm.driver import Driver
from pandastackd.vmm.probe import KvmVerdict, probe_kvm
from pandastackd.vmm.qemu import QemuDriver
from pandastackd.vmm.qemu_command import KVM, TCG, Accelerator

log = structlog.get_logger(__name__)


async def choose_driver(settings: Settings) -> Driver:
    """The driver for this host, with the accelerator that the settings ask for or the probe finds.

    Raises:
        HostFailure: KVM is demanded and does not work, or something the driver needs is missing.
    """
    return await QemuDriver.open(await _accelerator(settings.accelerator))


async def _accelerator(wanted: str) -> Accelerator:
    if wanted == "tcg":
        return TCG
    report = await asyncio.to_thread(probe_kvm)
    if report.usable:
        log.info("vmm.kvm", explanation=report.explanation)
        return KVM
    if wanted == "kvm" and report.verdict is not KvmVerdict.TOO_SLOW:
        raise HostFailure(f"PANDASTACK_ACCELERATOR is kvm, but {report.explanation}", code="kvm_unusable")
    if wanted == "kvm":
        log.warning("vmm.kvm_slow", explanation=report.explanation)
        return KVM
    log.warning(
        "vmm.software_emulation",
        explanation=f"{report.explanation}; sandboxes run by software emulation: several times slower, and isolated by "
        "QEMU's own code and its jail instead of by hardware. Fit for development, CI and trying things out",
    )
    return TCG
