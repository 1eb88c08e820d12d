"""The command line: one machine at boot and restore, and only what the jail hands over."""

from __future__ import annotations

import itertools

import pytest

from pandastackd.network import addresses
from pandastackd.vmm import qemu_command
from pandastackd.vmm.driver import Machine
from pandastackd.vmm.qemu_command import KVM, TCG, Accelerator

MACHINE = Machine(vcpus=2, memory_mib=512)


def line(accelerator: Accelerator = TCG, *, shared: bool = False, boot: str | None = None) -> list[str]:
    """A command line."""
    return qemu_command.arguments(MACHINE, accelerator, memory_shared=shared, boot_cmdline=boot)


def devices(arguments: list[str]) -> list[str]:
    """What makes the machine, in order."""
    pairs = itertools.pairwise(arguments)
    kinds = {"-machine", "-cpu", "-smp", "-m", "-device", "-serial", "-global"}
    return [f"{option} {value}" for option, value in pairs if option in kinds]


@pytest.mark.parametrize("accelerator", [KVM, TCG], ids=lambda accelerator: accelerator.name)
def test_boot_and_restore_make_the_same_machine(accelerator: Accelerator) -> None:
    boot = line(accelerator, shared=True, boot="quiet")
    restore = line(accelerator)
    assert devices(boot) == devices(restore)
    assert "-incoming" in restore
    assert "-S" in restore
    assert "-kernel" not in restore
    assert "-S" not in boot


def test_memory_is_shared_only_when_asked() -> None:
    assert any("mem-path" in argument and "share=off" in argument for argument in line())
    assert any("mem-path" in argument and "share=on" in argument for argument in line(shared=True))


def test_the_seccomp_filter_is_on_and_nothing_of_the_hosts_configuration_is_read() -> None:
    arguments = line()
    assert arguments[arguments.index("-sandbox") + 1].startswith("on,")
    assert "-nodefaults" in arguments
    assert "-no-user-config" in arguments


def test_hardware_addresses_are_those_of_the_network_plan() -> None:
    assert addresses.DATA_GUEST_MAC == qemu_command.DATA_MAC
    assert addresses.CONTROL_GUEST_MAC == qemu_command.CONTROL_MAC
    nics = [argument for argument in line() if argument.startswith("virtio-net-device")]
    assert [nic.rpartition("mac=")[2] for nic in nics] == [qemu_command.DATA_MAC, qemu_command.CONTROL_MAC]


def test_only_an_emulated_guest_is_told_the_counters_frequency_and_spared_mitigations() -> None:
    emulated = qemu_command.kernel_cmdline("pandastack.dns=1.1.1.1", TCG, 2_596_138)
    assert "tsc_early_khz=2596138" in emulated
    assert "mitigations=off" in emulated
    native = qemu_command.kernel_cmdline("pandastack.dns=1.1.1.1", KVM, 0)
    assert "tsc" not in native
    assert "mitigations" not in native
    for cmdline in (emulated, native):
        assert "console=ttyS0" in cmdline
        assert cmdline.endswith("pandastack.dns=1.1.1.1")
