"""Snapshots, rollback and what makes the children of one instant unlike each other.

Needs root, QEMU and the templates; runs one server and up to four microVMs at once.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import sqlite3
import time
from collections.abc import Iterator

import httpx
import pytest

from pandastack import BadRequestError, NotFoundError, PandaStack, PandastackError, Sandbox
from pandastackd.child_server import ChildServer
from pandastackd.disk.layout import DataDir
from tests.fault.host_state import VMM, eventually, sandbox_pids

OTHER_KEY = "f" * 31 + "0"
MISSING = "snap-u-00000000000000000000"

RANDOM_SERVICE = """
import os, random, ssl, uuid, pathlib, time
os.urandom(8), uuid.uuid4()
while True:
    if os.path.exists("/dev/shm/ask"):
        os.unlink("/dev/shm/ask")
        drawn = os.urandom(16).hex(), str(uuid.uuid4()), str(random.SystemRandom().random())
        pathlib.Path("/dev/shm/new").write_text(" ".join(drawn))
        os.rename("/dev/shm/new", "/dev/shm/answer")
    time.sleep(0.02)
"""
FRESH = (
    "head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \\n'; echo; cat /proc/sys/kernel/random/uuid /etc/machine-id; "
    "hostname; python3 -c 'import os, ssl, uuid; print(os.urandom(16).hex()); print(uuid.uuid4()); "
    "print(ssl.RAND_bytes(16).hex())'; "
    "touch /dev/shm/ask; while [ ! -e /dev/shm/answer ]; do sleep 0.05; done; tr ' ' '\\n' < /dev/shm/answer"
)
CLIENT_HELLO = """
import os, pathlib, ssl, time
def hello():
    out = ssl.MemoryBIO()
    try:
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="example.org").do_handshake()
    except ssl.SSLWantReadError:
        pass
    return out.read()
hello()
pathlib.Path("/dev/shm/warm").touch()
while not os.path.exists("/dev/shm/go"):
    time.sleep(0.02)
# Record header 5, handshake header 4, version 2, then 32 random bytes.
pathlib.Path("/dev/shm/hello").write_text(hello()[11:43].hex())
"""
NODE_RANDOM = """
const { randomBytes, randomFillSync } = require("crypto"), fs = require("fs");
randomFillSync(Buffer.alloc(64));
fs.writeFileSync("/dev/shm/node-warm", "");
const asked = setInterval(() => {
    if (!fs.existsSync("/dev/shm/go")) return;
    clearInterval(asked);
    fs.writeFileSync("/dev/shm/node", "\\n" + randomBytes(32).toString("hex"));
}, 20);
"""
DRAWER = """
import os
out = os.open("/dev/shm/drawn", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
while not os.path.exists("/dev/shm/stop"):
    os.write(out, os.urandom(16).hex().encode() + b"\\n")
"""
TALK = """
cd /tmp
openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost \\
    -addext subjectAltName=DNS:localhost 2>/dev/null
openssl s_server -accept 8443 -key key.pem -cert cert.pem -www -quiet &
until ss -ltn | grep -q :8443; do sleep 0.1; done
url=https://localhost:8443/
curl -sS --cacert cert.pem -o /dev/null -w 'curl %{http_code}\\n' $url
python3 -c "
import ssl, urllib.request
context = ssl.create_default_context(cafile='cert.pem')
print('python', urllib.request.urlopen('$url', context=context).status)"
NODE_EXTRA_CA_CERTS=cert.pem node -e "fetch('$url').then(answer => console.log('node', answer.status))"
pip download --quiet --retries 0 --cert cert.pem --index-url $url nothing 2>&1 | grep -qi 'no matching' && echo pip
kill %1
"""
LISTENER = """
import pathlib, socket, time
server = socket.create_server(("0.0.0.0", 8000))
connection, _ = server.accept()
connection.recv(4096)
connection.sendall(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\n")
while True:
    try:
        connection.sendall(b"tick\\n")
        said = "open"
    except OSError as error:
        said = type(error).__name__
    # Whoever reads it finds one word or the other, and no file that was just emptied.
    pathlib.Path("/dev/shm/connection.new").write_text(said)
    pathlib.Path("/dev/shm/connection.new").rename("/dev/shm/connection")
    time.sleep(0.1)
"""


def start(sandbox: Sandbox, code: str, program: str = "python3") -> None:
    """Start a program in the background of a sandbox."""
    name = f"/tmp/{hashlib.md5(code.encode()).hexdigest()}"
    sandbox.filesystem.write(name, code.encode())
    sandbox.exec(f"setsid {program} {name} >/tmp/program.log 2>&1 </dev/null & echo", check=True)


def said(sandbox: Sandbox, cmd: str, timeout_seconds: int = 60) -> str:
    return sandbox.exec(cmd, timeout_seconds=timeout_seconds, check=True).stdout.strip()


@pytest.fixture
def other(server: ChildServer) -> Iterator[PandaStack]:
    """A client of another workspace, whose key is written into the store: no route makes workspaces yet."""
    digest = hashlib.sha256(OTHER_KEY.encode()).hexdigest()
    books = sqlite3.connect(DataDir(server.data_dir).database, timeout=10, isolation_level=None)
    now = "2026-01-01 00:00:00.000000"
    books.execute(
        "INSERT OR IGNORE INTO workspaces (id, name, created_at) VALUES ('other', 'other', ?)", (now,)
    )
    books.execute(
        "INSERT OR IGNORE INTO api_keys (hash, prefix, workspace, label, created_at) VALUES (?, ?, 'other', 'test', ?)",
        (digest, f"pds_{OTHER_KEY[:8]}", now),
    )
    with PandaStack(token=f"pds_{OTHER_KEY}", base_url=server.url) as client:
        yield client
    books.execute("DELETE FROM api_keys WHERE hash = ?", (digest,))
    books.close()


def test_a_snapshot_outlives_its_sandbox_and_is_inspected_and_deleted(client: PandaStack) -> None:
    with client.sandboxes.create(template="base") as made:
        made.exec("echo kept > ~/kept; echo shm > /dev/shm/kept; sleep 1000 & echo $! > ~/pid", check=True)
        snapshot_id = made.snapshot()
        made.exec("echo changed > ~/kept", check=True)
    seen = client.snapshots.get(snapshot_id)
    assert (seen.sandbox_id, seen.template) == (made.id, "base")
    assert seen.size_bytes > 0
    assert snapshot_id in [each.id for each in client.snapshots.list()]
    assert [each.id for each in client.snapshots.list(sandbox_id=made.id)] == [snapshot_id]
    with client.sandboxes.create(from_snapshot=snapshot_id) as one:
        client.snapshots.delete(snapshot_id)
        assert said(one, "cat ~/kept /dev/shm/kept; ps -o comm= -p $(cat ~/pid)") == "kept\nshm\nsleep"
        assert said(one, "hostname") == one.id
        with pytest.raises(NotFoundError):
            client.snapshots.get(snapshot_id)
        with pytest.raises(NotFoundError):
            client.sandboxes.create(from_snapshot=snapshot_id)
        # What runs on a deleted snapshot is whole: it can itself be forked and captured.
        with one.fork() as child:
            assert said(child, "cat ~/kept") == "kept"


def test_a_paused_sandbox_is_captured_and_stays_paused(client: PandaStack, sandbox: Sandbox) -> None:
    sandbox.exec("echo kept > ~/kept", check=True)
    sandbox.pause()
    snapshot_id = sandbox.snapshot()
    child = sandbox.fork()
    assert sandbox.refresh().status == "paused"
    with pytest.raises(BadRequestError, match="paused"):
        sandbox.exec("true")
    with client.sandboxes.create(from_snapshot=snapshot_id) as restored, child:
        assert said(restored, "cat ~/kept") == said(child, "cat ~/kept") == "kept"
    client.snapshots.delete(snapshot_id)
    sandbox.resume()
    assert said(sandbox, "cat ~/kept") == "kept"


def test_rollback_of_a_running_a_hibernated_and_a_failed_sandbox(
    client: PandaStack, sandbox: Sandbox
) -> None:
    sandbox.exec("echo first > ~/state; echo first > /dev/shm/state", check=True)
    snapshot_id = sandbox.snapshot()
    second = "echo second > ~/state; rm /dev/shm/state; touch ~/new"

    def rolled_back() -> None:
        assert sandbox.rollback(snapshot_id).status == "running"
        assert said(sandbox, "cat ~/state /dev/shm/state; ls ~/new 2>&1 | wc -l; hostname") == (
            f"first\nfirst\n1\n{sandbox.id}"
        )
        assert said(sandbox, "[ -e ~/new ] && echo there || echo not") == "not"

    sandbox.exec(second, check=True)
    rolled_back()
    sandbox.exec(second, check=True)
    sandbox.hibernate()
    rolled_back()
    sandbox.exec(second, check=True)
    sandbox.pause()
    rolled_back()
    for pid in sandbox_pids(sandbox.id, VMM):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: sandbox.refresh().status == "failed", "a killed machine is failed")
    rolled_back()
    client.snapshots.delete(snapshot_id)
    assert said(sandbox, "cat ~/state") == "first"


def test_children_of_one_instant_share_no_randomness_and_no_name(sandbox: Sandbox) -> None:
    start(sandbox, RANDOM_SERVICE)
    time.sleep(2)
    children = sandbox.fork(count=3)
    try:
        lines = [line for each in (sandbox, *children) for line in said(each, FRESH).splitlines()]
        assert len(lines) == 4 * 10
        assert len(set(lines)) == len(lines), lines
        assert {each.id for each in (sandbox, *children)} <= set(lines)
    finally:
        for child in children:
            child.kill()


def test_processes_that_were_forked_with_their_machine_draw_tls_randomness_of_their_own(
    sandbox: Sandbox,
) -> None:
    start(sandbox, CLIENT_HELLO)
    start(sandbox, NODE_RANDOM, "node")
    wait = "for i in $(seq 300); do [ -e /dev/shm/{0} ] && [ -e /dev/shm/{1} ] && break; sleep 0.1; done; "
    said(sandbox, wait.format("warm", "node-warm"))
    children = sandbox.fork(count=2)
    try:
        answers = "cat /dev/shm/hello /dev/shm/node"
        drawn = [
            said(each, f"touch /dev/shm/go; {wait.format('hello', 'node')} {answers}").split()
            for each in (sandbox, *children)
        ]
        assert all(len(each) == 2 and {len(value) for value in each} == {64} for each in drawn), drawn
        assert len({value for each in drawn for value in each}) == 6, drawn
    finally:
        for child in children:
            child.kill()


def test_nothing_runs_in_a_child_before_its_randomness_is_its_own(sandbox: Sandbox) -> None:
    start(sandbox, DRAWER)
    said(sandbox, "for i in $(seq 100); do [ -s /dev/shm/drawn ] && break; sleep 0.1; done")
    children = sandbox.fork(count=2)
    try:
        time.sleep(1)
        drawn = [
            said(each, "touch /dev/shm/stop; sleep 0.1; cat /dev/shm/drawn").splitlines()
            for each in (sandbox, *children)
        ]
    finally:
        for child in children:
            child.kill()
    for one, two in itertools.combinations(drawn, 2):
        before = sum(
            1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, two, strict=False))
        )
        assert 0 < before < min(len(one), len(two)), "both went on after the fork"
        assert not set(one[before:]) & set(two[before:])


def test_the_programs_of_the_distribution_draw_from_the_kernel_and_still_speak_tls(sandbox: Sandbox) -> None:
    assert said(sandbox, "openssl list -random-instances").count("KERNEL-RANDOM @ kernel-random") == 3
    sandbox.filesystem.write("/tmp/talk.sh", TALK.encode())
    assert said(sandbox, "bash /tmp/talk.sh", 240).split() == [
        "curl",
        "200",
        "python",
        "200",
        "node",
        "200",
        "pip",
    ]
    sandbox.exec("sudo rm /run/pandastack/kernel-random.so", check=True)
    assert sandbox.exec("openssl rand -hex 8").exit_code != 0, "there is no silent way back to shared states"


def test_a_connection_of_the_parent_is_reset_in_the_child_and_goes_on_in_the_parent(
    server: ChildServer, sandbox: Sandbox
) -> None:
    start(sandbox, LISTENER)
    said(sandbox, "for i in $(seq 200); do ss -ltn | grep -q :8000 && break; sleep 0.1; done")
    headers = {"Host": f"8000-{sandbox.id}.sandboxes.example"}
    with httpx.stream("GET", server.url, headers=headers, timeout=30) as stream:
        ticks = stream.iter_lines()
        assert next(ticks) == "tick"
        with sandbox.fork() as child:
            said(child, "for i in $(seq 100); do grep -q Error /dev/shm/connection && break; sleep 0.1; done")
            assert said(child, "cat /dev/shm/connection") in ("ConnectionResetError", "BrokenPipeError")
        for _ in range(20):
            assert next(ticks) == "tick"
        assert said(sandbox, "cat /dev/shm/connection") == "open"


def test_snapshots_of_others_and_of_nobody_are_not_found(
    client: PandaStack, other: PandaStack, sandbox: Sandbox
) -> None:
    snapshot_id = sandbox.snapshot()
    assert other.snapshots.list() == []
    assert other.sandboxes.list() == []
    for who, wanted in ((other, snapshot_id), (client, MISSING)):
        with pytest.raises(NotFoundError):
            who.snapshots.get(wanted)
        with pytest.raises(NotFoundError):
            who.snapshots.delete(wanted)
        with pytest.raises(NotFoundError):
            who.sandboxes.create(from_snapshot=wanted)
    with pytest.raises(NotFoundError):
        sandbox.rollback(MISSING)
    for act in (
        lambda: other.sandboxes.fork(sandbox.id),
        lambda: other.sandboxes.fork_tree(sandbox.id, 2),
        lambda: other.sandboxes.promote(sandbox.id),
        lambda: other.sandboxes.get(sandbox.id),
    ):
        with pytest.raises(NotFoundError):
            act()
    with other.sandboxes.create(template="base") as theirs:
        with pytest.raises(NotFoundError):
            theirs.rollback(snapshot_id)
        assert said(theirs, "echo fine") == "fine"
        assert theirs.refresh().status == "running"
    assert client.snapshots.get(snapshot_id).id == snapshot_id
    assert client.snapshots.list(sandbox_id=MISSING) == []
    client.snapshots.delete(snapshot_id)
    assert said(sandbox, "echo fine") == "fine"


def test_a_fork_of_what_does_not_run_is_refused_in_words(sandbox: Sandbox) -> None:
    for pid in sandbox_pids(sandbox.id, VMM):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: sandbox.refresh().status == "failed", "a killed machine is failed")
    for act in (sandbox.fork, sandbox.snapshot, sandbox.hibernate):
        with pytest.raises(PandastackError, match="failed") as refused:
            act()
        assert refused.value.status_code == 409
