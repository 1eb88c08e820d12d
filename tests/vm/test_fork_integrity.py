"""Forks and snapshots lose no byte: of memory, of files, of what a process was in the middle of.

Needs root, QEMU, e2fsprogs and the templates; runs one server and up to five microVMs at once, one of them of 4 GiB.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pandastack import PandaStack, Sandbox
from pandastackd.child_server import ChildServer
from pandastackd.disk.layout import DataDir
from pandastackd.disk.reflink import clone
from pandastackd.snapshot import Kind, SnapshotStore
from tests.real_server import delete_all

from .patterns import start_writing, verified

DEPTH = 20
GIB = 1 << 30
TEMPLATES = Path(__file__).resolve().parents[2] / "templates"
BIG = (
    'parent = "base"\nlabel = "Big"\ndescription = "A guest of 4 GiB"\ncategory = "test"\nmemory_mib = 4096\n'
)

HALF_DONE = """
import array, hashlib, os, socket, time
values = array.array("Q", range(25_000_000))
total, step = 0, 0
log = open("/dev/shm/log", "a", buffering=1)
while True:
    total = (total * 31 + values[(step * 7919) % len(values)]) % 2**61
    values[step] = total
    print(step, total, socket.gethostname(), os.getpid(), file=log)
    if os.path.exists("/dev/shm/ask"):
        os.unlink("/dev/shm/ask")
        print(hashlib.md5(values[1_000_000:]).hexdigest(), file=open("/dev/shm/answer", "w"))
    step += 1
    time.sleep(0.01)
"""


def fsck(data_dir: Path, snapshot_id: str) -> None:
    """Assert that the file system in a snapshot is clean once its journal is played, as a mount would play it."""
    data = DataDir(data_dir)
    copy = data.staging / "fsck"
    clone(data.snapshot(snapshot_id) / "disk", copy)
    try:
        subprocess.run(["e2fsck", "-y", "-E", "journal_only", copy], capture_output=True, check=False)
        checked = subprocess.run(["e2fsck", "-fn", copy], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout
    finally:
        copy.unlink()


def test_every_byte_survives_forks_and_snapshots_taken_while_writing(
    server: ChildServer, client: PandaStack, sandbox: Sandbox
) -> None:
    start_writing(sandbox)
    children = sandbox.fork(count=2)
    snapshot_id = sandbox.snapshot()
    fsck(server.data_dir, snapshot_id)
    restored = client.sandboxes.create(from_snapshot=snapshot_id)
    grandchild = children[0].fork()
    try:
        for each in (sandbox, *children, restored, grandchild):
            verified(each)
    finally:
        for each in (*children, restored, grandchild):
            each.kill()
    # The snapshot did not change under those who run on it.
    with client.sandboxes.create(from_snapshot=snapshot_id) as again:
        client.snapshots.delete(snapshot_id)
        verified(again)


def test_a_long_line_of_forks_loses_nothing_and_does_not_grow_slower(sandbox: Sandbox) -> None:
    start_writing(sandbox, memory_mib=8, shared_mib=4)
    line, seconds = sandbox, []
    for _ in range(DEPTH):
        begun = time.perf_counter()
        child = line.fork()
        seconds.append(time.perf_counter() - begun)
        if line is not sandbox:
            line.kill()
        line = child
    verified(line)
    line.kill()
    verified(sandbox)
    first, last = statistics.median(seconds[:5]), statistics.median(seconds[-5:])
    assert last < 2.5 * first + 0.2, seconds


def test_a_half_done_loop_goes_on_from_the_same_line_and_diverges(sandbox: Sandbox) -> None:
    sandbox.filesystem.write("/tmp/loop.py", HALF_DONE.encode())
    sandbox.exec("setsid python3 /tmp/loop.py >/tmp/loop.err 2>&1 </dev/null & echo", check=True)
    wait = "for i in $(seq 400); do [ -s {0} ] && break; sleep 0.1; done; cat {0}"
    assert sandbox.exec(wait.format("/dev/shm/log"), timeout_seconds=90).stdout
    before = sandbox.exec("cat /dev/shm/log").stdout.splitlines()
    with sandbox.fork() as child:
        answers = [
            each.exec("sleep 1; touch /dev/shm/ask; " + wait.format("/dev/shm/answer"), timeout_seconds=90)
            for each in (sandbox, child)
        ]
        assert answers[0].stdout == answers[1].stdout != ""
        logs = [each.exec("head -n -1 /dev/shm/log").stdout.splitlines() for each in (sandbox, child)]
    rows = [[line.split() for line in log] for log in logs]
    for row, host in zip(rows, (sandbox.id, child.id), strict=True):
        assert [int(step) for step, *_ in row] == list(range(len(row)))
        assert row[-1][2] == host
    assert len({pid for row in rows for *_, pid in row}) == 1
    both = list(zip(*rows, strict=False))
    # Everybody who goes on from the same line with the same values goes on to the same numbers.
    assert all(ours[:2] == theirs[:2] for ours, theirs in both)
    assert len(both) > len(before)
    same = [ours == theirs for ours, theirs in both]
    fork = same.index(False)
    assert fork >= len(before) - 1
    assert not any(same[fork:])


def test_the_parent_answers_while_it_is_forked(sandbox: Sandbox) -> None:
    with ThreadPoolExecutor(2) as pool:
        begun = pool.submit(sandbox.exec, "for i in $(seq 20); do echo $i; sleep 0.1; done", 60)
        forking = pool.submit(sandbox.fork, count=3)
        answers = []
        while not forking.done():
            answers.append(sandbox.exec("echo here").stdout)
        assert answers == ["here\n"] * len(answers) != []
        assert begun.result().stdout.split() == [str(i) for i in range(1, 21)]
        for child in forking.result():
            child.kill()
    assert sandbox.exec("echo here").stdout == "here\n"


@pytest.fixture
def big_template(server: ChildServer, client: PandaStack, tmp_path: Path) -> Iterator[str]:
    """A template of 4 GiB, there for one test."""
    shutil.copytree(TEMPLATES, tmp_path / "templates")
    (tmp_path / "templates" / "big").mkdir()
    (tmp_path / "templates" / "big" / "template.toml").write_text(BIG)
    server.stop()
    server.env["PANDASTACK_TEMPLATES_DIR"] = str(tmp_path / "templates")
    try:
        server.start()
        yield "big"
    finally:
        delete_all(client)
        server.stop()
        del server.env["PANDASTACK_TEMPLATES_DIR"]
        _remove_bakes(server.data_dir, "big")
        server.start()


def test_a_guest_of_four_gib(server: ChildServer, client: PandaStack, big_template: str) -> None:
    with client.sandboxes.create(template=big_template, ttl_seconds=600) as parent:
        key = start_writing(parent, memory_mib=64, shared_mib=16)
        snapshot_id = parent.snapshot()
        memory = DataDir(server.data_dir).snapshot(snapshot_id) / "memory"
        assert memory.stat().st_size == 4 * GIB
        assert _holds(memory, int(key, 16).to_bytes(8, "little"), above=3 * GIB)
        fsck(server.data_dir, snapshot_id)
        with parent.fork() as child, client.sandboxes.create(from_snapshot=snapshot_id) as restored:
            for each in (parent, child, restored):
                verified(each)
        client.snapshots.delete(snapshot_id)
        parent.hibernate()
        verified(parent)


def _holds(memory: Path, key: bytes, *, above: int) -> bool:
    """Whether a page of the pattern lies above an offset of a memory file."""
    with memory.open("rb") as file:
        position = above
        while True:
            try:
                position = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:
                return False
            end = os.lseek(file.fileno(), position, os.SEEK_HOLE)
            while position < end:
                data = os.pread(file.fileno(), min(16 << 20, end - position), position)
                if any(data.startswith(key, at) for at in range(0, len(data), 4096)):
                    return True
                position += len(data)


def _remove_bakes(data_dir: Path, template: str) -> None:
    data = DataDir(data_dir)
    data.prepare(image_gib=64, reserve_mib=0)
    try:
        store = SnapshotStore(data.snapshots, data.staging)
        for snapshot in store.list():
            if snapshot.manifest.kind is Kind.TEMPLATE and snapshot.manifest.template == template:
                shutil.rmtree(snapshot.disk.parent)
    finally:
        data.release()
