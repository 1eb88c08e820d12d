"""`kill -9` of one VMM, of its supervisor, and of a VMM in the middle of a create.

Needs root, QEMU and the templates.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from pandastack import BadRequestError, PandaStack, PandastackError
from pandastackd.child_server import ChildServer

from .host_state import SUPERVISOR, VMM, eventually, no_leaks, sandbox_pids, sandboxes_on_host


@pytest.mark.parametrize("victim", [VMM, SUPERVISOR])
def test_a_dead_machine_is_failed_and_says_why(server: ChildServer, client: PandaStack, victim: str) -> None:
    made, other = (client.sandboxes.create(template="base") for _ in range(2))
    made.exec("echo last words of the guest | sudo tee /dev/console")
    pids = sandbox_pids(made.id, victim)
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: made.refresh().status == "failed", "the dead machine shows as failed")
    raw = httpx.get(
        f"{server.url}/v1/sandboxes/{made.id}", headers={"Authorization": f"Bearer {server.admin_key}"}
    ).json()
    assert raw["failure"]
    assert "VMM" in raw["failure"]
    assert "last words of the guest" in raw["console_tail"]
    with pytest.raises(BadRequestError) as refused:
        made.exec("true")
    assert refused.value.status_code == 409
    assert other.exec("echo fine").stdout == "fine\n"
    no_leaks(server.data_dir, client.sandboxes.list)
    made.kill()
    assert other.exec("echo fine").stdout == "fine\n"
    no_leaks(server.data_dir, client.sandboxes.list)
    assert made.id not in [each.id for each in client.sandboxes.list()]


def test_a_machine_that_died_while_no_server_ran(server: ChildServer, client: PandaStack) -> None:
    made, other = (client.sandboxes.create(template="base") for _ in range(2))
    pids = sandbox_pids(made.id, VMM)
    server.kill()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    server.start()
    assert made.refresh().status == "failed"
    assert made.failure
    assert other.exec("echo fine").stdout == "fine\n"
    no_leaks(server.data_dir, client.sandboxes.list)


def test_a_command_under_way_ends_with_its_machine(client: PandaStack) -> None:
    made = client.sandboxes.create(template="base")
    with ThreadPoolExecutor(1) as pool:
        command = pool.submit(made.exec, "sleep 600", 900)
        time.sleep(1)
        for pid in sandbox_pids(made.id, VMM):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(PandastackError):
            command.result(timeout=60)


@pytest.mark.parametrize("victim", [VMM, SUPERVISOR])
@pytest.mark.parametrize("delay_seconds", [0.0, 0.05, 0.2])
def test_a_machine_killed_in_the_middle_of_its_create(
    server: ChildServer, client: PandaStack, victim: str, delay_seconds: float
) -> None:
    before = sandboxes_on_host()
    done = threading.Event()
    killed: list[int] = []

    def hunt() -> None:
        while not done.is_set():
            for sandbox_id in sandboxes_on_host() - before:
                if not sandbox_pids(sandbox_id, victim):
                    continue
                time.sleep(delay_seconds)
                for pid in sandbox_pids(sandbox_id, victim):
                    with contextlib.suppress(
                        ProcessLookupError
                    ):  # the launcher has the supervisor's name, and ends
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)
                if killed:
                    return

    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        made = client.sandboxes.create(template="base")
    except PandastackError as error:
        refusal = (error.status_code or 0, error.code, error.message)
        assert refusal[0] >= 500, refusal
        assert refusal[1] != "internal", refusal
    else:
        # The create had answered before the blow fell.
        hunter.join(20)
        eventually(lambda: made.refresh().status == "failed", "a machine that was killed shows as failed")
        made.kill()
    finally:
        done.set()
        hunter.join()
    assert killed
    no_leaks(server.data_dir, client.sandboxes.list)
    with client.sandboxes.create(template="base") as next_one:
        assert next_one.exec("echo fine").stdout == "fine\n"
