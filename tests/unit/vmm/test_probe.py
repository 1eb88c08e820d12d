"""The KVM probe's judgement, and that it ends whatever the device does."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from pandastackd.vmm.probe import KvmVerdict, judge, probe_kvm


def loops(*rates: float) -> list[str]:
    """What the probe's process prints for loops at so many million instructions a second."""
    return [json.dumps({"instructions": rate * 1e6 * 0.01, "seconds": 0.01}) for rate in rates]


@pytest.mark.parametrize(
    ("lines", "verdict"),
    [
        (loops(30, 800, 2500), KvmVerdict.USABLE),
        (loops(2.2, 2.3), KvmVerdict.TOO_SLOW),
        ([*loops(2.2), "{cut off"], KvmVerdict.TOO_SLOW),
        ([], KvmVerdict.CANNOT_RUN),
        (["noise", "[]", "{}"], KvmVerdict.CANNOT_RUN),
        ([json.dumps({"error": "Inappropriate ioctl"})], KvmVerdict.CANNOT_RUN),
        ([*loops(2000), json.dumps({"error": "the guest left"})], KvmVerdict.CANNOT_RUN),
    ],
)
def test_verdicts(lines: list[str], verdict: KvmVerdict) -> None:
    report = judge(lines)
    assert report.verdict is verdict
    assert report.usable is (verdict is KvmVerdict.USABLE)
    assert report.explanation


def test_the_measured_rate_is_told() -> None:
    report = judge(loops(2.2))
    assert report.million_per_second == pytest.approx(2.2)
    assert "2.2 million" in report.explanation


def test_no_device_and_a_device_that_is_no_kvm() -> None:
    assert probe_kvm(Path("/dev/none-such")).verdict is KvmVerdict.ABSENT
    assert probe_kvm(Path("/dev/null")).verdict is KvmVerdict.CANNOT_RUN


def test_a_device_that_never_answers_is_given_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = tmp_path / "endless.py"
    endless.write_text('print(\'{"instructions": 20000, "seconds": 0.01}\', flush=True)\nwhile True: pass\n')
    monkeypatch.setattr("pandastackd.vmm.probe._GUEST", endless)
    begun = time.monotonic()
    assert probe_kvm(Path("/dev/null")).verdict is KvmVerdict.TOO_SLOW
    assert time.monotonic() - begun < 10
