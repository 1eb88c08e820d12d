"""The list of checks, in the order in which a person would mend what they find."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pandastackd.config import Settings
from pandastackd.doctor import machine, network, storage, virtualization
from pandastackd.doctor.finding import Finding, fail
from pandastackd.errors import PlatformError

Check = Callable[[Settings], Finding]

CHECKS: tuple[tuple[str, Check], ...] = (
    ("privilege", machine.privilege),
    ("system", machine.system),
    ("kernel", machine.kernel),
    ("kvm", virtualization.kvm),
    ("qemu", virtualization.qemu),
    ("tools", machine.tools),
    ("reflink", storage.reflink),
    ("disk", storage.disk),
    ("memory", machine.memory),
    ("swap", machine.swap),
    ("cgroups", machine.cgroups),
    ("namespaces", network.namespaces),
    ("tun", network.tun),
    ("nftables", network.nftables),
    ("network", network.overlap),
    ("firewall", network.firewall),
    ("clock", machine.clock),
    ("fuse", machine.fuse),
    ("userfaultfd", machine.userfaultfd),
)


def run_doctor(settings: Settings, checks: Iterable[tuple[str, Check]] = CHECKS) -> list[Finding]:
    """Run every check and return what they found, in order; never raises for what a check meets."""
    return [_run(name, check, settings) for name, check in checks]


def _run(name: str, check: Check, settings: Settings) -> Finding:
    try:
        return check(settings)
    except PlatformError as error:
        return fail(name, error.message, "see the message; then run `pandastackd doctor` again")
    except Exception as error:  # noqa: BLE001  a check that breaks is a finding, and the others still count
        kind = type(error).__name__
        return fail(
            name, f"could not be checked ({kind}: {error})", "mend what the message names, and try again"
        )
