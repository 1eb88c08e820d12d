"""Telling processes apart, what the jail reports of them, and how their ends read."""

from __future__ import annotations

import asyncio
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pandastackd.errors import HostFailure, VmmFailed
from pandastackd.programs import find_program
from pandastackd.vmm.driver import VmmExit
from pandastackd.vmm.jail import Jailed, JailHome
from pandastackd.vmm.memory_map import find_mapping, parse_maps
from pandastackd.vmm.processes import ProcessIdentity, WatchedProcess, boot_id, start_time
from pandastackd.vmm.tsc import measure_tsc_khz


def identity(pid: int) -> ProcessIdentity:
    """Who has this pid now."""
    started = start_time(pid)
    assert started is not None
    return ProcessIdentity(pid, started)


@pytest.mark.anyio
async def test_the_end_of_a_process_is_seen_by_all_who_wait() -> None:
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        watched = WatchedProcess.open(identity(sleeper.pid))
        assert watched is not None
        assert not watched.ended
        waiting = [asyncio.create_task(watched.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        watched.kill()
        await asyncio.gather(*waiting)
        assert watched.ended
        watched.kill()
        watched.close()
        watched.close()


@pytest.mark.anyio
async def test_a_later_user_of_a_pid_is_not_taken_for_the_first() -> None:
    me = identity(os.getpid())
    assert WatchedProcess.open(replace(me, start_time=me.start_time - 1)) is None
    with subprocess.Popen(["true"]) as gone:
        ended = identity(gone.pid)
        gone.wait()
    assert WatchedProcess.open(ended) is None
    assert start_time(gone.pid) is None


def report(**changes: object) -> dict[str, object]:
    """What the jail prints, with changes."""
    process = {"pid": 7, "start_time": 9}
    return {"boot_id": boot_id(), "supervisor": process, "vmm": process, **changes}


def test_reports_of_the_jail(tmp_path: Path) -> None:
    assert Jailed.parse(report()) == Jailed(ProcessIdentity(7, 9), ProcessIdentity(7, 9))
    assert Jailed.parse(report(boot_id="another")) is None
    for broken in (report(vmm=None), report(supervisor={"pid": "x", "start_time": 1}), {}):
        with pytest.raises(ValueError):
            Jailed.parse(broken)
    home = JailHome(tmp_path / "vmm")
    assert home.read_pids() is None
    home.make()
    home.pids.write_text("[]")
    assert home.read_pids() is None
    home.make()
    assert not home.pids.exists()
    home.remove()
    home.remove()


def test_how_a_process_ended(tmp_path: Path) -> None:
    home = JailHome(tmp_path / "vmm")
    assert home.read_exit() == VmmExit()
    home.make()
    for content in ("", "[]", "{}", '{"code": 1}'):
        home.exit.write_text(content)
        assert home.read_exit() == VmmExit()
    home.exit.write_text('{"code": null, "signal": 9, "ended_at": 12.5}')
    assert home.read_exit() == VmmExit(None, 9, 12.5)
    assert str(home.read_exit()) == "killed by SIGKILL"
    assert str(VmmExit(3, None, 1.0)) == "exit code 3"
    assert "supervisor" in str(VmmExit())
    assert "99" in str(VmmExit(None, 99, 1.0))


def test_a_program_that_was_not_built_says_what_to_do() -> None:
    with pytest.raises(HostFailure, match="make setup"):
        find_program("pandastack-none-such")


MAPS = """\
7f0000000000-7f0000001000 r--p 00000000 fe:00 11                         /usr/lib/x.so
7f1000000000-7f1000200000 rw-p 00000000 fe:00 42                         /vm/memory
7f1000200000-7f1000400000 rw-p 00200000 fe:00 42                         /vm/memory (deleted)
7f2000000000-7f2000001000 rw-p 00000000 00:00 0
"""


def test_guest_memory_is_found_whole_even_when_the_kernel_split_it() -> None:
    assert parse_maps(MAPS, inode=42, size=0x400000) == 0x7F1000000000
    assert parse_maps(MAPS, inode=42, size=0x400001) is None, "a part is not the whole"
    assert parse_maps(MAPS, inode=43, size=0x1000) is None
    gap = MAPS.replace("7f1000200000-", "7f1000201000-")
    assert parse_maps(gap, inode=42, size=0x400000) is None


def test_a_process_that_does_not_map_the_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "memory").write_bytes(b"x" * 4096)
    with pytest.raises(VmmFailed, match="does not map"):
        find_mapping(os.getpid(), tmp_path / "memory")


def test_the_counter_is_measured_to_the_same_value_twice() -> None:
    first, second = measure_tsc_khz(), measure_tsc_khz()
    assert 500_000 < first < 10_000_000
    assert first == pytest.approx(second, rel=1e-3)
