"""The doctor on a real host: it tries things for real and leaves nothing behind. Needs root; no VM."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pandastackd.config import Settings
from pandastackd.doctor import Status, run_doctor

pytestmark = pytest.mark.needs("root", "tun", "nft", "qemu-system-x86_64", "mkfs.xfs")


def _traces() -> list[str]:
    """What is named after the doctor, of all that it might leave on a host."""
    commands = (["ip", "-o", "link"], ["ip", "netns"], ["nft", "list", "ruleset"], ["ps", "-eo", "args"])
    listings = [
        subprocess.run(command, capture_output=True, text=True, check=True).stdout for command in commands
    ]
    return [line for text in listings for line in text.splitlines() if "doctor0" in line]


def test_a_host_that_can_run_it_has_no_failure_and_keeps_no_trace(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "not" / "there", disk_reserve_mib=0)
    findings = {finding.name: finding for finding in run_doctor(settings)}
    for name in ("privilege", "reflink", "cgroups", "namespaces", "tun", "nftables", "qemu"):
        assert findings[name].status is not Status.FAIL, findings[name]
    assert _traces() == []
    assert list(tmp_path.iterdir()) == []
    assert not list(Path("/sys/fs/cgroup").glob("**/pandastack-doctor-*"))


def test_a_taken_network_is_named(tmp_path: Path) -> None:
    subprocess.run(["ip", "link", "add", "doctortest0", "type", "veth", "peer", "doctortest1"], check=True)
    try:
        subprocess.run(["ip", "addr", "add", "10.219.3.1/24", "dev", "doctortest0"], check=True)
        settings = Settings(data_dir=tmp_path, network="10.219.0.0/16")  # type: ignore[arg-type]
        finding = next(finding for finding in run_doctor(settings) if finding.name == "network")
    finally:
        subprocess.run(["ip", "link", "delete", "doctortest0"], check=True)
    assert finding.status is Status.FAIL
    assert "doctortest0" in finding.meaning
    assert "PANDASTACK_NETWORK" in finding.remedy
