"""The life of a VMM: boot, save, restore, adopt, stop. Real QEMU processes in the real jail.

Needs root, QEMU, tap devices and the built `pandastack-jail`; no guest kernel and no network.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from pandastackd.errors import Conflict, HostFailure, VmmFailed
from pandastackd.vmm.jail import JailHome
from tests.vm.vmm_lab import LETTER_ADDRESS, MACHINE, Lab, console, digest, eventually, is_running, lab

pytestmark = [pytest.mark.anyio, pytest.mark.needs("root", "tun", "qemu-system-x86_64", "ip")]

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Lab]:
    """A lab for one test."""
    async with lab(tmp_path) as made:
        yield made


def follows(said: str, then: str) -> bool:
    """Whether ``then`` goes on exactly where ``said`` stopped."""
    start = said.index("AA\n")
    endless = "".join(f"{letter}{letter}\n" for letter in ALPHABET) * 200
    return endless.startswith(said[start:] + then)


async def test_a_restored_guest_goes_on_where_it_was_frozen(bench: Lab) -> None:
    memory, state, said = await bench.baked()
    for name in ("first", "second"):
        enclosure = bench.enclosure(name, memory=memory)
        vmm = await bench.driver.restore(MACHINE, enclosure, state=state)
        assert console(enclosure) == "", "a restored guest is paused"
        assert vmm.timing.start_ms > 0
        assert vmm.timing.load_ms > 0
        await vmm.resume()
        await eventually(lambda e=enclosure: console(e).count("\n") > 3, "the guest counts on")
        await vmm.stop()
        assert follows(said, console(enclosure)), (said[-20:], console(enclosure)[:20])


async def test_guests_share_a_template_and_cannot_change_it(bench: Lab) -> None:
    memory, state, _ = await bench.baked()
    before = digest(memory)
    one, two = bench.enclosure("one", memory=memory), bench.enclosure("two", memory=memory)
    for enclosure in (one, two):
        vmm = await bench.driver.restore(MACHINE, enclosure, state=state)
        await vmm.resume()
    for enclosure in (one, two):
        await eventually(lambda e=enclosure: console(e).count("\n") > 3, "both guests count")
    assert digest(memory) == before


async def test_pausing_stops_the_guest_and_resuming_lets_it_go_on(bench: Lab) -> None:
    enclosure = bench.enclosure("one")
    vmm = await bench.boot(enclosure)
    await vmm.pause()
    await vmm.pause()
    await asyncio.sleep(0.1)
    frozen = console(enclosure)
    await asyncio.sleep(0.3)
    assert console(enclosure) == frozen
    await vmm.resume()
    await vmm.resume()
    await eventually(lambda: len(console(enclosure)) > len(frozen), "the guest goes on")


async def test_state_is_saved_only_while_paused_and_never_over_a_file(bench: Lab, tmp_path: Path) -> None:
    vmm = await bench.boot(bench.enclosure("one"))
    with pytest.raises(Conflict):
        await vmm.save_device_state(tmp_path / "running")
    assert not (tmp_path / "running").exists()
    await vmm.pause()
    await vmm.save_device_state(tmp_path / "first")
    await vmm.save_device_state(tmp_path / "second")
    assert (tmp_path / "first").stat().st_size > 1000
    with pytest.raises(VmmFailed, match="File exists"):
        await vmm.save_device_state(tmp_path / "first")
    await vmm.resume()


async def test_guest_memory_is_found_in_the_process(bench: Lab) -> None:
    vmm = await bench.boot(bench.enclosure("one"))
    await vmm.pause()
    mapping = vmm.memory_mapping()
    assert mapping.length == MACHINE.memory_mib << 20
    with Path(f"/proc/{mapping.pid}/mem").open("rb") as memory:
        memory.seek(mapping.start + LETTER_ADDRESS)
        assert memory.read(1).decode() in ALPHABET


async def test_the_end_of_a_vmm_is_seen_and_told(bench: Lab) -> None:
    enclosure = bench.enclosure("one")
    vmm = await bench.boot(enclosure)
    watchers = [asyncio.create_task(vmm.wait()) for _ in range(2)]
    os.kill(vmm.pid, signal.SIGTERM)
    for end in await asyncio.gather(*watchers):
        assert end.code is not None or end.signal is not None
        assert end.ended_at is not None
    assert "BB" in vmm.console_tail()
    with pytest.raises(VmmFailed) as failure:
        await vmm.pause()
    assert "BB" in failure.value.console_tail


async def test_stop_and_clean_can_be_repeated_and_leave_nothing(bench: Lab) -> None:
    enclosure = bench.enclosure("one")
    vmm = await bench.boot(enclosure)
    jailed = JailHome(enclosure.home).read_pids()
    assert jailed is not None
    await vmm.stop()
    await vmm.stop()
    assert (await vmm.wait()).signal == signal.SIGKILL
    for _ in range(2):
        await bench.driver.clean(enclosure)
    assert not enclosure.home.exists()
    assert not is_running(jailed.supervisor.pid)
    assert not is_running(jailed.process.pid)
    assert enclosure.cgroup not in bench.tree.names()


async def test_clean_alone_removes_a_running_vmm(bench: Lab) -> None:
    enclosure = bench.enclosure("one")
    vmm = await bench.boot(enclosure)
    await bench.driver.clean(enclosure)
    assert not is_running(vmm.pid)
    await vmm.wait()


async def test_a_vmm_outlives_its_agent_and_is_adopted(bench: Lab) -> None:
    enclosure = bench.enclosure("one")
    agent = subprocess.run(
        [sys.executable, "-c", AGENT, str(bench.folder), bench.netns, str(Path(__file__).parents[2])],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert agent.returncode == -signal.SIGKILL, agent.stderr
    vmm = await bench.driver.adopt(enclosure)
    assert vmm is not None
    said = console(enclosure)
    await eventually(lambda: len(console(enclosure)) > len(said), "the guest counts on without an agent")
    await vmm.pause()
    await vmm.resume()
    ending = asyncio.create_task(vmm.wait())
    os.kill(vmm.pid, signal.SIGKILL)
    assert (await ending).signal == signal.SIGKILL
    assert await bench.driver.adopt(enclosure) is None


AGENT = """
import asyncio, os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from pandastackd.vmm import Enclosure
from pandastackd.vmm.cgroups import CgroupTree
from pandastackd.vmm.qemu import QemuDriver
from pandastackd.vmm.qemu_command import TCG
from tests.vm.vmm_lab import FIRST_UID, Lab

async def main():
    folder, netns = Path(sys.argv[1]), sys.argv[2]
    tree = CgroupTree.open(netns)
    lab = Lab(folder, netns, tree, await QemuDriver.open(TCG, cgroups=tree))
    one = folder / "one"
    enclosure = Enclosure(one / "vmm", FIRST_UID, Path("/run/netns", netns), ("data0", "control0"),
                          one / "disk", one / "memory", True, "lab-one")
    await lab.boot(enclosure)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_a_second_agent_waits_for_no_dead_connection(bench: Lab) -> None:
    enclosure = bench.enclosure("one")
    first = await bench.boot(enclosure)
    await first.detach()
    second = await bench.driver.adopt(enclosure)
    assert second is not None
    await second.pause()


async def test_another_process_with_the_same_pid_is_neither_adopted_nor_killed(bench: Lab) -> None:
    enclosure = bench.enclosure("one")
    vmm = await bench.boot(enclosure)
    await vmm.stop()
    home = JailHome(enclosure.home)
    report = json.loads(home.pids.read_text())
    with subprocess.Popen(["sleep", "60"]) as bystander:
        report["vmm"]["pid"] = report["supervisor"]["pid"] = bystander.pid
        home.pids.write_text(json.dumps(report))
        assert await bench.driver.adopt(enclosure) is None
        await bench.driver.clean(enclosure)
        assert bystander.poll() is None
        bystander.kill()


async def test_a_host_that_rebooted_has_nothing_to_adopt(bench: Lab) -> None:
    enclosure = bench.enclosure("one")
    vmm = await bench.boot(enclosure)
    home = JailHome(enclosure.home)
    report = json.loads(home.pids.read_text())
    home.pids.write_text(json.dumps({**report, "boot_id": "another"}))
    assert await bench.driver.adopt(enclosure) is None
    home.pids.write_text(json.dumps(report))
    await vmm.stop()


async def test_a_broken_state_is_refused_with_the_reason_and_nothing_is_left(bench: Lab) -> None:
    memory, state, _ = await bench.baked()
    content = state.read_bytes()
    for broken in (b"", b"garbage" * 100, content[: len(content) // 2]):
        state.write_bytes(broken)
        enclosure = bench.enclosure(f"broken-{len(broken)}", memory=memory)
        with pytest.raises(VmmFailed, match="refused the saved state") as failure:
            await bench.driver.restore(MACHINE, enclosure, state=state)
        assert failure.value.code == "state_refused"
        assert not enclosure.home.exists()
        assert enclosure.cgroup not in bench.tree.names()


async def test_what_does_not_start_says_why_and_leaves_nothing(bench: Lab) -> None:
    whole = bench.enclosure("whole")
    kernel, initrd = bench.folder / "kernel", bench.folder / "initrd"
    kernel.write_bytes(b"no kernel")
    initrd.write_bytes(b"")
    reasons = {
        "no such interface": replace(whole, taps=("data0", "control9")),
        "open /run/netns/none-such": replace(whole, netns=Path("/run/netns/none-such")),
        "none/disk": replace(whole, disk=bench.folder / "none" / "disk"),
        "kernel": whole,
    }
    for reason, enclosure in reasons.items():
        with pytest.raises(HostFailure, match=reason):
            await bench.driver.boot(MACHINE, enclosure, kernel=kernel, initrd=initrd, cmdline="")
        assert not enclosure.home.exists()
        assert enclosure.cgroup not in bench.tree.names()


async def test_missing_files_are_named(bench: Lab) -> None:
    enclosure, nothing = bench.enclosure("one"), bench.folder / "nothing"
    with pytest.raises(VmmFailed, match="nothing"):
        await bench.driver.boot(MACHINE, enclosure, kernel=nothing, initrd=nothing, cmdline="")
    with pytest.raises(VmmFailed, match="nothing"):
        await bench.driver.restore(MACHINE, enclosure, state=nothing)
    assert not enclosure.home.exists()
