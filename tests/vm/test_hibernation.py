"""Pause and resume, hibernate and wake, by call, by use and by clock.

Needs root, QEMU and the templates; runs one server and two microVMs at once.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pandastack import BadRequestError, PandaStack, Sandbox
from pandastackd.child_server import ChildServer
from tests.fault.host_state import VMM, eventually, sandbox_pids, sandboxes_on_host

from .patterns import start_writing, verified

MIB = 1 << 20
HOUR_SECONDS = 3600
CLOCK_SECONDS = 2.0


def guest_clock_is_off_by(sandbox: Sandbox) -> float:
    """Seconds that the guest's clock is away from ours, less than what the asking took."""
    before = time.time()
    guest = float(sandbox.exec("date +%s.%N", check=True).stdout)
    after = time.time()
    return max(0.0, before - guest, guest - after)


def test_pause_freezes_and_resume_goes_on(sandbox: Sandbox) -> None:
    sandbox.exec(
        "(while :; do date +%s%N > /dev/shm/tick; sleep 0.05; done) >/dev/null 2>&1 & echo", check=True
    )
    sandbox.pause()
    assert sandbox.refresh().status == "paused"
    machine = sandbox_pids(sandbox.id, VMM)
    assert machine
    with pytest.raises(BadRequestError, match="resume") as refused:
        sandbox.exec("true")
    assert refused.value.status_code == 409
    time.sleep(2)
    resumed = time.time_ns()
    sandbox.resume()
    assert sandbox.refresh().status == "running"
    assert sandbox_pids(sandbox.id, VMM) == machine
    eventually(
        lambda: int(sandbox.filesystem.read("/dev/shm/tick") or 0) >= resumed,
        "the loop goes on, in the present",
    )
    assert guest_clock_is_off_by(sandbox) < CLOCK_SECONDS


def test_hibernated_it_has_no_process_and_loses_no_byte(sandbox: Sandbox) -> None:
    start_writing(sandbox)
    for _ in range(2):
        sandbox.hibernate()
        assert sandbox.refresh().status == "hibernated"
        assert sandbox.id not in sandboxes_on_host()
        sandbox.wake()
        assert sandbox.refresh().status == "running"
        verified(sandbox)
    sandbox.wake()  # awake already


def test_whoever_needs_it_wakes_it(sandbox: Sandbox) -> None:
    sandbox.exec("echo kept > ~/kept; echo memory > /dev/shm/kept", check=True)
    sandbox.hibernate()
    assert sandbox.exec("cat ~/kept /dev/shm/kept", check=True).stdout == "kept\nmemory\n"
    assert sandbox.refresh().status == "running"
    sandbox.hibernate()
    assert sandbox.filesystem.read("/dev/shm/kept") == b"memory\n"
    sandbox.hibernate()
    with sandbox.fork() as child:
        assert child.filesystem.read("/dev/shm/kept") == b"memory\n"
    sandbox.pause()
    sandbox.hibernate()  # from paused too
    assert sandbox.exec("cat /dev/shm/kept", check=True).stdout == "memory\n"


def test_the_clock_is_right_an_hour_later(sandbox: Sandbox) -> None:
    # A guest that slept for an hour wakes with a clock that is an hour late: so is one that is set back before.
    sandbox.exec(f"sudo date -s @$(( $(date +%s) - {HOUR_SECONDS} ))", check=True)
    assert guest_clock_is_off_by(sandbox) > HOUR_SECONDS - 60
    with sandbox.fork() as child:
        assert guest_clock_is_off_by(child) < CLOCK_SECONDS
    sandbox.hibernate()
    time.sleep(3)
    assert guest_clock_is_off_by(sandbox) < CLOCK_SECONDS


def test_at_the_end_of_its_time_it_sleeps_if_that_was_asked_for(client: PandaStack) -> None:
    with (
        client.sandboxes.create(template="base", ttl_seconds=3, on_timeout="hibernate") as sleeper,
        client.sandboxes.create(template="base", ttl_seconds=3) as mortal,
    ):
        sleeper.exec("echo kept > /dev/shm/kept", check=True)
        eventually(lambda: sleeper.refresh().status == "hibernated", "it is hibernated when its time is up")
        eventually(
            lambda: mortal.id not in [each.id for each in client.sandboxes.list()], "the other is deleted"
        )
        assert sleeper.id not in sandboxes_on_host()
        assert sleeper.exec("cat /dev/shm/kept", check=True).stdout == "kept\n"


def test_a_second_hibernation_writes_only_what_changed(server: ChildServer, sandbox: Sandbox) -> None:
    sandbox.exec("head -c 200M /dev/urandom > /dev/shm/filled; md5sum /dev/shm/filled > ~/sum", check=True)
    first = _written_by(server, sandbox.hibernate)
    sandbox.wake()
    second = _written_by(server, sandbox.hibernate)
    assert first > 200 * MIB
    assert second < 60 * MIB
    assert sandbox.exec("md5sum --check ~/sum", check=True).stdout.endswith("OK\n")


def _written_by(server: ChildServer, act: object) -> int:
    """Bytes that the server and the tools it ran and waited for wrote during ``act``."""

    def written() -> int:
        lines = Path(f"/proc/{server.pid}/io").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("wchar:")).split()[1])

    before = written()
    assert callable(act)
    act()
    return written() - before
