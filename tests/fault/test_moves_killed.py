"""Snapshot, fork, rollback and hibernate when something gives way in the middle: VMM, server, disk, memory.

In every case: the sandbox lives (or is hibernated and wakes), or is failed only when it was its own VMM that was
killed; the error says why; nothing is left behind; and every snapshot that was acknowledged can be restored.

Needs root, QEMU and the templates.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from pandastack import CapacityError, NotFoundError, PandaStack, PandastackError, Sandbox
from pandastackd.child_server import ChildServer
from pandastackd.disk.layout import DataDir
from pandastackd.snapshot import Kind, SnapshotStore
from tests.real_server import admin

from .host_state import VMM, eventually, no_leaks, sandbox_pids

MORE_THAN_ANYBODY_HAS_MIB = 10**9
FILL = "head -c {} /dev/urandom > /dev/shm/filled; md5sum /dev/shm/filled > ~/sum; sync"
INTACT = "md5sum --check --status ~/sum && cat ~/word"

Move = Callable[[PandaStack, "Parent"], object]


@dataclass
class Parent:
    """A sandbox with something to lose, and a snapshot of it that was acknowledged."""

    sandbox: Sandbox
    snapshot_id: str

    def intact(self) -> None:
        """Assert that memory and disk are those that were filled in."""
        seen = self.sandbox.exec(INTACT, timeout_seconds=60)
        assert (seen.exit_code, seen.stdout) == (0, "precious\n"), seen


MOVES: dict[str, Move] = {
    "snapshot": lambda client, parent: client.sandboxes.get(parent.sandbox.id).snapshot(),
    "fork": lambda client, parent: client.sandboxes.fork(parent.sandbox.id, count=2),
    "rollback": lambda client, parent: client.sandboxes.get(parent.sandbox.id).rollback(parent.snapshot_id),
    "hibernate": lambda client, parent: client.sandboxes.get(parent.sandbox.id).hibernate(),
}


@pytest.fixture
def parent(client: PandaStack) -> Iterator[Parent]:
    """A sandbox with 100 MB in memory; its snapshots are removed at the end."""
    sandbox = client.sandboxes.create(template="base", ttl_seconds=1800)
    sandbox.exec(FILL.format("100M") + "; echo precious > ~/word; sync", check=True, timeout_seconds=60)
    yield Parent(sandbox, sandbox.snapshot())
    for snapshot in client.snapshots.list():
        client.snapshots.delete(snapshot.id)


def nothing_left(server: ChildServer, client: PandaStack) -> None:
    """Assert that the host holds what the API lists, and no capture besides."""
    no_leaks(server.data_dir, client.sandboxes.list)
    data = DataDir(server.data_dir)
    store = SnapshotStore(data.snapshots, data.staging)
    listed = {each.id for each in client.snapshots.list()}
    baked = {each.id for each in store.list() if each.manifest.kind is Kind.TEMPLATE}
    assert {path.name for path in data.snapshots.iterdir()} - baked == listed
    for sandbox in client.sandboxes.list():
        machines = list(data.sandbox(sandbox.id).glob("machine-*"))
        assert len(machines) == 1, (sandbox.status, machines)


def restorable(client: PandaStack) -> None:
    """Assert that every snapshot that is listed restores to what was captured."""
    for snapshot in client.snapshots.list():
        with client.sandboxes.create(from_snapshot=snapshot.id) as restored:
            Parent(restored, snapshot.id).intact()


@pytest.mark.parametrize("attempt", range(2))
@pytest.mark.parametrize("move", MOVES)
def test_server_killed_in_the_middle(
    server: ChildServer, client: PandaStack, parent: Parent, move: str, attempt: int
) -> None:
    chance = random.Random(f"{move} {attempt}")
    acknowledged: list[object] = []

    def work() -> None:
        with contextlib.suppress(PandastackError), admin(server) as own:
            acknowledged.append(MOVES[move](own, parent))

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep((0.04, 0.16)[attempt] * chance.uniform(0.6, 1.4))
    server.kill()
    thread.join()
    server.start()

    expected = {"running", "hibernated"} if move in ("hibernate", "rollback") else {"running"}
    assert parent.sandbox.refresh().status in expected, parent.sandbox.failure
    parent.intact()
    for each in client.sandboxes.list():
        assert each.status == "running", (each.id, each.failure)
        Parent(each, "").intact()
    snapshots = {each.id for each in client.snapshots.list()}
    assert parent.snapshot_id in snapshots
    if move == "snapshot":
        assert set(acknowledged) <= snapshots
    restorable(client)
    nothing_left(server, client)


@pytest.mark.parametrize("move", MOVES)
def test_vmm_killed_in_the_middle(server: ChildServer, client: PandaStack, parent: Parent, move: str) -> None:
    other = client.sandboxes.create(template="base")
    pids = sandbox_pids(parent.sandbox.id, VMM)
    killer = threading.Timer(random.Random(move).uniform(0.03, 0.12), _kill, [pids])
    killer.start()
    refused: PandastackError | None = None
    try:
        MOVES[move](client, parent)
    except PandastackError as error:
        refused = error
    killer.join()
    if refused is not None:
        assert refused.status_code in (409, 500, 502, 503), refused
        assert refused.code != "internal", refused
        assert refused.message
    if move in ("snapshot", "fork"):
        eventually(lambda: parent.sandbox.refresh().status == "failed", "its own VMM was killed")
        assert "VMM" in (parent.sandbox.failure or "")
    else:
        # A hibernation or rollback may have had what it needed already; then it has replaced the dead machine.
        eventually(
            lambda: parent.sandbox.refresh().status in ("failed", "hibernated", "running"), "it is settled"
        )
    assert other.exec("echo fine").stdout == "fine\n"
    assert parent.sandbox.rollback(parent.snapshot_id).status == "running"
    parent.intact()
    restorable(client)
    nothing_left(server, client)


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("move", MOVES)
def test_disk_full_in_the_middle(server: ChildServer, client: PandaStack, parent: Parent, move: str) -> None:
    data = DataDir(server.data_dir)
    filler = data.host / "filler"
    hidden = {*data.staging.iterdir(), *data.sandbox(parent.sandbox.id).iterdir()}
    done = threading.Event()

    def fill() -> None:
        while not done.is_set():
            if {*data.staging.iterdir(), *data.sandbox(parent.sandbox.id).iterdir()} - hidden:
                _fill(filler)
                return

    hunter = threading.Thread(target=fill)
    hunter.start()
    try:
        with pytest.raises(CapacityError, match="disk") as refused:
            MOVES[move](_impatient(server), parent)
        assert refused.value.status_code == 507
    finally:
        done.set()
        hunter.join()
        filler.unlink(missing_ok=True)
    parent.intact()
    restorable(client)
    nothing_left(server, client)


def _fill(path: Path) -> None:
    """Take all free space of the file system at once."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        size, piece = 0, 1 << 36
        while piece >= 1 << 12:
            try:
                os.posix_fallocate(fd, size, piece)
                size += piece
            except OSError:
                piece //= 2
    finally:
        os.close(fd)


def test_disk_or_memory_short_is_told_before_anything_is_done(
    server: ChildServer, client: PandaStack, parent: Parent
) -> None:
    with _short(server, "PANDASTACK_DISK_RESERVE_MIB"):
        for move in MOVES.values():
            with pytest.raises(CapacityError, match="disk") as refused:
                move(_impatient(server), parent)
            assert refused.value.status_code == 507
            parent.intact()
    with _short(server, "PANDASTACK_MEMORY_RESERVE_MIB"):
        with pytest.raises(CapacityError, match="memory"):
            MOVES["fork"](_impatient(server), parent)
        parent.intact()
        # These need no more memory than it has already.
        client.snapshots.delete(parent.sandbox.snapshot())
        assert parent.sandbox.rollback(parent.snapshot_id).status == "running"
        parent.intact()
        parent.sandbox.hibernate()
        with pytest.raises(CapacityError, match="memory"):
            _impatient(server).sandboxes.get(parent.sandbox.id).wake()
        assert parent.sandbox.refresh().status == "hibernated"
        nothing_left(server, client)
    parent.intact()
    nothing_left(server, client)


def test_memory_that_runs_out_in_the_middle_of_a_fork_is_told_child_by_child(
    server: ChildServer, client: PandaStack, parent: Parent
) -> None:
    # A guest that counts for a quarter of the memory at hand: some children fit, and never all of them.
    meminfo = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) // 1024 for line in meminfo if line.startswith("MemAvailable:"))
    overcommit = parent.sandbox.memory_mb / (available / 4)
    wanted = 16
    with _short(server, "PANDASTACK_MEMORY_OVERCOMMIT", overcommit):
        answer = httpx.post(
            f"{server.url}/v1/sandboxes/{parent.sandbox.id}/fork",
            headers={"Authorization": f"Bearer {server.admin_key}"},
            json={"count": wanted},
            timeout=120,
        )
        assert answer.status_code == 201, answer.text
        children, failures = answer.json()["children"], answer.json()["failures"]
        assert children
        assert failures
        assert len(children) + len(failures) == wanted
        assert {failure["code"] for failure in failures} == {"insufficient_memory"}
        assert all("MiB" in failure["error"] for failure in failures)
        assert {each.id for each in client.sandboxes.list()} == {parent.sandbox.id, *children}
        for child in children:
            Parent(client.sandboxes.get(child), "").intact()
            client.sandboxes.delete(child)
        parent.intact()
        nothing_left(server, client)


@contextlib.contextmanager
def _short(server: ChildServer, setting: str, value: float = MORE_THAN_ANYBODY_HAS_MIB) -> Iterator[None]:
    server.stop()
    server.env[setting] = str(value)
    try:
        server.start()
        yield
    finally:
        server.stop()
        del server.env[setting]
        server.start()


def _impatient(server: ChildServer) -> PandaStack:
    return PandaStack(token=server.admin_key, base_url=server.url, max_create_retry_seconds=0)


def test_a_failed_fork_of_a_vanished_parent_makes_nothing(server: ChildServer, client: PandaStack) -> None:
    with pytest.raises(NotFoundError):
        client.sandboxes.fork("nosuchsandbox", count=3)
    nothing_left(server, client)
