"""After a reboot of the host: what slept and what was captured is there, what ran is failed and says why.

The reboot is made of what it takes away: every process, network namespace and mount of ours, at once.
Needs root, QEMU and the templates.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pytest

from pandastack import BadRequestError, PandaStack
from pandastackd.child_server import ChildServer
from pandastackd.disk.layout import DataDir
from pandastackd.network.addresses import NAMESPACE_PREFIX

from .host_state import SUPERVISOR, VMM, eventually, no_leaks, sandbox_pids, sandboxes_on_host


def reboot(server: ChildServer) -> None:
    """Take away what no reboot leaves, and start the server again."""
    server.kill()
    for sandbox_id in sandboxes_on_host():
        for pid in (*sandbox_pids(sandbox_id, SUPERVISOR), *sandbox_pids(sandbox_id, VMM)):
            with contextlib.suppress(ProcessLookupError):  # a machine dies with its supervisor
                os.kill(pid, signal.SIGKILL)
        eventually(lambda name=sandbox_id: not sandbox_pids(name, VMM), "the machine is gone")
    for namespace in Path("/run/netns").glob(f"{NAMESPACE_PREFIX}*"):
        subprocess.run(["ip", "netns", "delete", namespace.name], check=True)
    DataDir(server.data_dir).unmount()
    server.start()


def test_what_slept_and_what_was_captured_is_there_and_what_ran_says_why_it_is_not(
    server: ChildServer, client: PandaStack
) -> None:
    asleep, paused, running = (client.sandboxes.create(template="base", ttl_seconds=1800) for _ in range(3))
    asleep.exec("echo kept > /dev/shm/kept; echo kept > ~/kept; sleep 1000 & echo $! > ~/pid", check=True)
    snapshot_id = asleep.snapshot()
    asleep.hibernate()
    running.exec("echo lost > /dev/shm/lost", check=True)
    paused.pause()

    reboot(server)

    for each in (paused, running):
        assert each.refresh().status == "failed"
        assert "reboot" in (each.failure or "")
        with pytest.raises(BadRequestError) as refused:
            each.exec("true")
        assert refused.value.status_code == 409
    assert asleep.refresh().status == "hibernated"
    seen = "cat /dev/shm/kept ~/kept; ps -o comm= -p $(cat ~/pid)"
    assert asleep.exec(seen, check=True).stdout == "kept\nkept\nsleep\n"
    with client.sandboxes.create(from_snapshot=snapshot_id) as restored:
        assert restored.exec(seen, check=True).stdout == "kept\nkept\nsleep\n"
    assert running.rollback(snapshot_id).status == "running"
    assert running.exec(seen, check=True).stdout == "kept\nkept\nsleep\n"
    client.snapshots.delete(snapshot_id)
    no_leaks(server.data_dir, client.sandboxes.list)
