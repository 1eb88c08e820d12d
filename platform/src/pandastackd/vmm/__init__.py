"""VMM drivers: boot, restore, pause, resume, save device state, stop. Knows nothing of templates, networks or
tenants."""

from pandastackd.vmm.choose import choose_driver
from pandastackd.vmm.driver import (
    Driver,
    Enclosure,
    Machine,
    MemoryMapping,
    Vmm,
    VmmExit,
    VmmIdentity,
    VmmTiming,
)
from pandastackd.vmm.probe import KvmReport, KvmVerdict, probe_kvm

__all__ = [
    "Driver",
    "Enclosure",
    "KvmReport",
    "KvmVerdict",
    "Machine",
    "MemoryMapping",
    "Vmm",
    "VmmExit",
    "VmmIdentity",
    "VmmTiming",
    "choose_driver",
    "probe_kvm",
]
