"""`kill -9` of the server while it creates and deletes: the next start leaks nothing and loses no sandbox.

Needs root, QEMU and the templates.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time

import pytest

from pandastack import PandaStack, PandastackError, Sandbox
from pandastackd.child_server import ChildServer
from tests.real_server import admin

from .host_state import VMM, eventually, no_leaks, sandbox_pids

ROUNDS = 8


def restart(server: ChildServer) -> None:
    server.kill()
    server.start()


def test_running_sandboxes_outlive_the_server(server: ChildServer, client: PandaStack) -> None:
    made = [client.sandboxes.create(template="base") for _ in range(2)]
    made[1].exec("nohup sh -c 'while :; do date +%s%N > /tmp/tick; sleep 0.2; done' >/dev/null 2>&1 & echo")
    made[0].filesystem.write("/tmp/kept", b"before the crash")
    made[0].pause()
    machines = [sandbox_pids(each.id, VMM) for each in made]
    restart(server)
    assert {each.id: each.status for each in client.sandboxes.list()} == {
        made[0].id: "paused",
        made[1].id: "running",
    }
    assert [sandbox_pids(each.id, VMM) for each in made] == machines
    before = made[1].filesystem.read("/tmp/tick")
    eventually(lambda: made[1].filesystem.read("/tmp/tick") not in (before, b""), "the clockwork still runs")
    made[0].resume()
    assert made[0].filesystem.read("/tmp/kept") == b"before the crash"
    assert made[0].exec("echo $((6*7))").stdout == "42\n"
    no_leaks(server.data_dir, client.sandboxes.list)
    for each in made:
        each.kill()
    no_leaks(server.data_dir, client.sandboxes.list)


def test_a_stop_in_order_keeps_sandboxes_too(server: ChildServer, client: PandaStack) -> None:
    made = client.sandboxes.create(template="base")
    server.stop()
    server.start()
    assert made.exec("echo here").stdout == "here\n"


@pytest.mark.parametrize("attempt", range(ROUNDS))
def test_killed_amid_creates_and_deletes(server: ChildServer, client: PandaStack, attempt: int) -> None:
    chance = random.Random(attempt)
    kept = client.sandboxes.create(template="base")
    doomed = client.sandboxes.create(template="base")
    machine = sandbox_pids(kept.id, VMM)

    # Each thread has a client of its own, whose calls break off with the server.
    def create() -> None:
        with contextlib.suppress(PandastackError):
            admin(server).sandboxes.create(template="base")

    def delete() -> None:
        with contextlib.suppress(PandastackError):
            admin(server).sandboxes.delete(doomed.id)

    threads = [threading.Thread(target=work) for work in (create, delete, create)]
    for thread in threads:
        thread.start()
        time.sleep(chance.uniform(0, 0.05))
    time.sleep(chance.uniform(0, 0.25) if attempt < ROUNDS - 2 else chance.uniform(0.25, 0.8))
    server.kill()
    for thread in threads:
        thread.join()
    server.start()

    assert sandbox_pids(kept.id, VMM) == machine
    listed = client.sandboxes.list()
    assert {each.status for each in listed} <= {"running"}, [
        (each.id, each.status, each.failure) for each in listed
    ]
    for each in listed:
        assert _works(each)
    no_leaks(server.data_dir, client.sandboxes.list)
    assert kept.id in [each.id for each in listed]


def test_killed_twice_in_a_row_during_its_own_start(server: ChildServer, client: PandaStack) -> None:
    made = client.sandboxes.create(template="base")
    server.kill()
    for seconds in (0.3, 0.8, 1.5):
        starter = threading.Thread(target=_start_and_be_killed, args=(server,))
        starter.start()
        time.sleep(seconds)
        server.kill()
        starter.join()
    server.start()
    assert _works(made)
    no_leaks(server.data_dir, client.sandboxes.list)


def _start_and_be_killed(server: ChildServer) -> None:
    with contextlib.suppress(Exception):
        server.start()


def _works(sandbox: Sandbox) -> bool:
    return sandbox.exec("echo works").stdout == "works\n"
