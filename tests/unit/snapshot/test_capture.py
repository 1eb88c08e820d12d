"""Whatever happens to a capture, the machine runs afterwards. A fake VMM, a fake memory tool, copies for clones."""

from __future__ import annotations

import asyncio
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TypedDict

import pytest

from pandastackd.errors import HostFailure, InsufficientStorage, VmmFailed
from pandastackd.snapshot import MemoryTool
from pandastackd.snapshot.capture import capture

from .conftest import FakeVmm, FakeWorkload

pytestmark = pytest.mark.anyio

REPORT = '{"pages":2,"bytes":8192,"zero_pages":1,"runs":1,"scan_ms":0.5,"copy_ms":1.5,"method":"pagemap"}'


@pytest.fixture(autouse=True)
def copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pandastackd.snapshot.capture.clone", shutil.copyfile)


class Sources(TypedDict):
    """Where a capture reads and writes."""

    disk: Path
    base_memory: Path
    draft: Path


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    (tmp_path / "base").write_bytes(b"\1" * 65536)
    (tmp_path / "disk-in").write_bytes(b"\2" * 65536)
    (tmp_path / "draft").mkdir()
    return {"disk": tmp_path / "disk-in", "base_memory": tmp_path / "base", "draft": tmp_path / "draft"}


def tool(tmp_path: Path, body: str) -> MemoryTool:
    path = tmp_path / "memory-tool"
    path.write_text(f"#!{sys.executable}\nimport os, sys, time\n{body}\n")
    path.chmod(0o755)
    return MemoryTool(path)


def good(tmp_path: Path) -> MemoryTool:
    return tool(tmp_path, f"print('ready', flush=True); sys.stdin.readline(); print('{REPORT}')")


async def test_memory_state_and_disk_are_taken_inside_the_pause(tmp_path: Path, sources: Sources) -> None:
    vmm = FakeVmm(sources["base_memory"])
    timing = await capture(vmm, **sources, tool=good(tmp_path))
    assert vmm.calls == ["pause", "state", "resume"]
    assert {path.name for path in sources["draft"].iterdir()} == {"memory", "state", "disk"}
    assert (timing.memory.pages, timing.memory.zero_pages) == (2, 1)
    assert timing.pause_ms >= timing.memory_ms > 0


@pytest.mark.parametrize("fails_at", ["", "hold", "pause", "state"])
async def test_the_workload_is_held_around_the_pause_and_let_go_whatever_happens(
    tmp_path: Path, sources: Sources, fails_at: str
) -> None:
    vmm = FakeVmm(sources["base_memory"])
    vmm.fail_at = fails_at
    with pytest.raises(RuntimeError) if fails_at else nullcontext():
        await capture(vmm, **sources, tool=good(tmp_path), workload=FakeWorkload(vmm))
    steps = ["hold", "pause", "state"]
    reached = steps[: steps.index(fails_at) + 1] if fails_at else steps
    assert vmm.calls == [*reached, "resume", "release"]


async def test_a_guest_that_cannot_be_told_to_go_on_spoils_nothing(tmp_path: Path, sources: Sources) -> None:
    vmm = FakeVmm(sources["base_memory"])
    timing = await capture(vmm, **sources, tool=good(tmp_path), workload=FakeWorkload(vmm, deaf=True))
    assert timing.memory.pages == 2
    assert vmm.calls == ["hold", "pause", "state", "resume", "release"]


async def test_a_hibernation_stays_paused(tmp_path: Path, sources: Sources) -> None:
    vmm = FakeVmm(sources["base_memory"])
    await capture(vmm, **sources, tool=good(tmp_path), keep_paused=True, workload=FakeWorkload(vmm))
    assert vmm.calls == ["hold", "pause", "state"]


async def test_shared_memory_is_the_file_itself(tmp_path: Path, sources: Sources) -> None:
    vmm = FakeVmm(sources["base_memory"])
    await capture(vmm, **sources, tool=MemoryTool(tmp_path / "not there"), memory_shared=True)
    assert (sources["draft"] / "memory").read_bytes() == b"\1" * 65536


@pytest.mark.parametrize("step", ["pause", "state"])
async def test_a_vmm_that_refuses_runs_afterwards(tmp_path: Path, sources: Sources, step: str) -> None:
    vmm = FakeVmm(sources["base_memory"])
    vmm.fail_at = step
    with pytest.raises(RuntimeError, match=step):
        await capture(vmm, **sources, tool=good(tmp_path), keep_paused=True)
    assert vmm.calls[-1] == "resume"
    assert vmm.running


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('print(\'{"error":"x","code":"no_space"}\'); sys.exit(1)', InsufficientStorage),
        ('print(\'{"error":"x","code":"target_gone"}\'); sys.exit(1)', VmmFailed),
        ('print(\'{"error":"x","code":"short_read"}\'); sys.exit(1)', HostFailure),
        ("sys.exit(3)", HostFailure),
        ("os.kill(os.getpid(), 9)", HostFailure),
    ],
)
@pytest.mark.parametrize("when", ["", "print('ready', flush=True); sys.stdin.readline(); "])
async def test_a_memory_tool_that_fails_is_typed_and_the_machine_runs(
    tmp_path: Path, sources: Sources, body: str, expected: type[Exception], when: str
) -> None:
    vmm = FakeVmm(sources["base_memory"])
    with pytest.raises(expected) as caught:
        await capture(vmm, **sources, tool=tool(tmp_path, when + body))
    assert type(caught.value) is expected
    assert vmm.running
    # Before the pause there was nothing to undo.
    assert vmm.calls == (["pause", "state", "resume"] if when else [])


async def test_a_missing_memory_tool_says_so(tmp_path: Path, sources: Sources) -> None:
    vmm = FakeVmm(sources["base_memory"])
    with pytest.raises(HostFailure, match="make setup"):
        await capture(vmm, **sources, tool=MemoryTool(tmp_path / "not there"))
    assert vmm.calls == []


async def test_a_disk_that_cannot_be_cloned_waits_for_the_memory_and_then_runs(
    tmp_path: Path, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clone(source: Path, target: Path) -> None:
        if target.name == "disk":
            raise InsufficientStorage("full")
        shutil.copyfile(source, target)

    monkeypatch.setattr("pandastackd.snapshot.capture.clone", clone)
    vmm = FakeVmm(sources["base_memory"])
    with pytest.raises(InsufficientStorage):
        await capture(vmm, **sources, tool=good(tmp_path))
    assert vmm.calls == ["pause", "state", "resume"]


async def test_a_cancelled_capture_leaves_the_machine_running_and_no_process(
    tmp_path: Path, sources: Sources
) -> None:
    vmm = FakeVmm(sources["base_memory"])
    mark = tmp_path / "pid"
    slow = tool(
        tmp_path,
        f"print('ready', flush=True); sys.stdin.readline()\n"
        f"open({str(mark)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)",
    )
    task = asyncio.create_task(capture(vmm, **sources, tool=slow))
    while not mark.exists() or not mark.read_text():
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert vmm.calls == ["pause", "state", "resume"]
    assert not Path(f"/proc/{mark.read_text()}").exists()
