"""Is KVM real? A device node that answers says nothing: a guest has to *run*, at the speed of hardware.

Some hosts have a ``/dev/kvm`` that interprets guests one instruction at a time; a stock kernel then boots in
hours or not at all, while software emulation does it in seconds. So a tiny guest runs a few million
instructions in a process of its own, which is killed at a deadline.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

_GUEST = Path(__file__).with_name("probe_guest.py")
_DEADLINE_SECONDS = 1.5
_KILL_SECONDS = 0.3

LEAST_MILLION_PER_SECOND = 200.0
"""A loop of two trivial instructions runs at over a thousand million a second on hardware, and at a few
million where each is interpreted."""


class KvmVerdict(StrEnum):
    """What the probe found."""

    USABLE = "usable"
    ABSENT = "absent"
    NOT_PERMITTED = "not_permitted"
    CANNOT_RUN = "cannot_run"
    TOO_SLOW = "too_slow"


@dataclass(frozen=True, slots=True)
class KvmReport:
    """The verdict, and why, in a sentence that says what to do."""

    verdict: KvmVerdict
    explanation: str
    million_per_second: float | None = None
    """Guest instructions, measured; ``None`` when none ran."""

    @property
    def usable(self) -> bool:
        """Whether guests run at hardware speed."""
        return self.verdict is KvmVerdict.USABLE


def probe_kvm(device: Path = Path("/dev/kvm")) -> KvmReport:
    """Find out. Blocks for two seconds at most, whatever the device does."""
    if not device.exists():
        return KvmReport(
            KvmVerdict.ABSENT,
            f"there is no {device}: switch virtualization on in the firmware (or in the outer hypervisor) and load "
            "the module kvm_intel or kvm_amd",
        )
    try:
        device.open("r+b", buffering=0).close()
    except PermissionError:
        return KvmReport(
            KvmVerdict.NOT_PERMITTED,
            f"{device} may not be opened: run as root, or join the group that owns it",
        )
    except OSError as error:
        return KvmReport(KvmVerdict.CANNOT_RUN, f"{device} does not open: {error.strerror}")
    return judge(_run_guest(device))


def judge(lines: list[str]) -> KvmReport:
    """The report that follows from what the probe's process printed before it ended or was killed."""
    rate: float | None = None
    for line in lines:
        try:
            said = json.loads(line)
            if "error" in said:
                return KvmReport(KvmVerdict.CANNOT_RUN, f"KVM cannot run a guest: {said['error']}", rate)
            rate = said["instructions"] / max(said["seconds"], 1e-9) / 1e6
        except (ValueError, KeyError, TypeError):
            continue
    if rate is None:
        return KvmReport(
            KvmVerdict.CANNOT_RUN,
            f"KVM started a guest of five instructions and did not finish in {_DEADLINE_SECONDS:g} s",
        )
    if rate < LEAST_MILLION_PER_SECOND:
        return KvmReport(
            KvmVerdict.TOO_SLOW,
            f"KVM here runs {rate:.1f} million guest instructions a second; hardware runs more than a thousand: it is "
            "emulated, and a stock kernel would not boot on it. Use a host with hardware virtualization for speed",
            rate,
        )
    return KvmReport(
        KvmVerdict.USABLE, f"a guest runs at hardware speed ({rate:.0f} million instructions a second)", rate
    )


def _run_guest(device: Path) -> list[str]:
    # -I: nothing of the user's environment is imported by a process of root's.
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(_GUEST), str(device)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=_DEADLINE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        try:
            output, _ = process.communicate(timeout=_KILL_SECONDS)
        except subprocess.TimeoutExpired as stuck:
            # Stuck inside the kernel: not even SIGKILL is heard. It is left behind rather than waited for.
            output = stuck.output.decode() if isinstance(stuck.output, bytes) else (stuck.output or "")
    return output.splitlines()
