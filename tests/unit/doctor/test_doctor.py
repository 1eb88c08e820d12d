"""The doctor's frame: broken checks are findings, and the exit code follows the worst one. Needs nothing."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from pandastackd.config import Settings
from pandastackd.doctor import Finding, Status, machine, report, run, storage, virtualization
from pandastackd.doctor.finding import fail, ok, warn
from pandastackd.errors import HostFailure
from pandastackd.vmm.probe import KvmReport, KvmVerdict


def _explode(_: Settings) -> Finding:
    raise ZeroDivisionError("by zero")


def _refuse(_: Settings) -> Finding:
    raise HostFailure("the host is broken")


def test_a_check_that_breaks_is_a_finding_and_the_others_still_run() -> None:
    findings = run.run_doctor(
        Settings(), [("first", _explode), ("second", _refuse), ("third", lambda _: ok("third", "fine"))]
    )
    assert [finding.status for finding in findings] == [Status.FAIL, Status.FAIL, Status.OK]
    assert "by zero" in findings[0].meaning
    assert findings[1].meaning == "the host is broken"


@pytest.mark.parametrize(
    ("findings", "code"),
    [
        ([ok("a", "fine")], 0),
        ([ok("a", "fine"), warn("b", "slow", "wait")], 0),
        ([warn("b", "slow", "wait"), fail("c", "broken [red]", "mend it")], 1),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_exit_code_and_output(
    monkeypatch: pytest.MonkeyPatch, findings: list[Finding], code: int, as_json: bool
) -> None:
    monkeypatch.setattr(report, "run_doctor", lambda _: findings)
    out = io.StringIO()
    # Narrow on purpose: JSON must not be wrapped, and the table must not drop words.
    console = Console(file=out, width=60)
    assert report.doctor_command(Settings(), as_json=as_json, console=console) == code
    if as_json:
        assert json.loads(out.getvalue()) == [finding.as_dict() for finding in findings]
    else:
        for finding in findings:
            assert finding.name in out.getvalue()
            assert finding.remedy in out.getvalue()


def test_every_finding_that_is_not_ok_says_how_to_mend_it() -> None:
    names = [name for name, _ in run.CHECKS]
    assert len(names) == len(set(names))
    for finding in run.run_doctor(Settings()):
        assert finding.name in names
        assert finding.meaning
        assert bool(finding.remedy) == (finding.status is not Status.OK)


@pytest.mark.parametrize(
    ("usable", "accelerator", "status"),
    [(True, "auto", "ok"), (False, "auto", "warn"), (False, "kvm", "fail"), (True, "tcg", "warn")],
)
def test_kvm_is_judged_by_what_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, usable: bool, accelerator: str, status: str
) -> None:
    verdict = KvmVerdict.USABLE if usable else KvmVerdict.TOO_SLOW
    monkeypatch.setattr(virtualization, "probe_kvm", lambda: KvmReport(verdict, "measured"))
    assert virtualization.kvm(Settings(accelerator=accelerator)).status == status


def test_short_memory_is_a_failure_that_says_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_meminfo", lambda: {"MemTotal": 2000, "MemAvailable": 1500, "SwapTotal": 1})
    assert "476 MiB are left" in machine.memory(Settings(memory_reserve_mib=1024)).meaning
    assert machine.memory(Settings(memory_reserve_mib=100)).status is Status.OK
    assert machine.swap(Settings()).status is Status.WARN


def test_disk_is_judged_by_whether_there_is_a_directory_already(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    fresh, used = tmp_path_factory.mktemp("fresh"), tmp_path_factory.mktemp("used")
    (used / "lock").touch()
    monkeypatch.setattr(storage.DataDir, "free_mib", lambda _: 3000)
    assert storage.disk(Settings(data_dir=fresh, disk_reserve_mib=2000)).status is Status.FAIL
    assert storage.disk(Settings(data_dir=used, disk_reserve_mib=2000)).status is Status.WARN
    assert storage.disk(Settings(data_dir=used, disk_reserve_mib=4000)).status is Status.FAIL
