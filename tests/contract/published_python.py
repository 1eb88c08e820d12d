"""Runs inside the virtual environment of the published client: everything it can do that we have, by its own words."""

# mypy: ignore-errors
# (its imports exist only in that environment)

from __future__ import annotations

import os
import random
import threading
import time
import urllib.request

from capability import fails as raises
from capability import run

from pandastack import Client
from pandastack.exceptions import (
    AuthError,
    BadRequestError,
    CommandFailed,
    NotFoundError,
    SandboxTimeout,
    ServerError,
)


def fails(kind, call, *parts):
    """``call`` raises ``kind`` and not one of its children."""
    assert type(raises(kind, call, *parts)) is kind


def account(client, url):
    assert client.me()["current_org"] == "default"
    made = client.tokens.create("ci", expires_in_days=3)
    made = made if isinstance(made, dict) else vars(made)
    assert made["token"].startswith("pds_")
    other = Client(api_url=url, api_key=made["token"])
    assert other.sandboxes.list() == []
    client.tokens.revoke(made["prefix"])
    fails(AuthError, other.sandboxes.list)
    fails(AuthError, Client(api_url=url, api_key="pds_wrong").me)


def templates(client, url):
    names = [template.name for template in client.templates.list()]
    assert names == ["base", "code-interpreter"], names
    assert client.templates.get("ubuntu-24.04").name == "base"
    fails(NotFoundError, lambda: client.templates.get("nope"))


def life(client, url):
    sandbox = client.sandboxes.create(
        template="base", ttl_seconds=600, metadata={"a": "b"}, cpu=2, memory_mb=1
    )
    assert sandbox.status == "running"
    assert sandbox.metadata == {"a": "b"}
    assert sandbox.boot_ms is not None
    assert [each.id for each in client.sandboxes.list()] == [sandbox.id]
    sandbox.pause()
    assert client.sandboxes.get(sandbox.id).status == "paused"
    fails(BadRequestError, lambda: sandbox.exec("true"), "paused")
    sandbox.resume()
    sandbox.refresh()
    assert sandbox.status == "running"
    sandbox.set_ttl(700)
    assert sandbox.lifecycle()["ttl_seconds"] == 700
    sandbox.set_persistent(True)
    assert sandbox.lifecycle()["persistent"] is True
    sandbox.kill()
    fails(NotFoundError, lambda: client.sandboxes.get(sandbox.id))
    fails(NotFoundError, sandbox.kill)
    fails(NotFoundError, lambda: client.sandboxes.create(template="nope"), "unknown template")
    fails(
        BadRequestError,
        lambda: client.sandboxes.create(ttl_seconds=10**9),
        "ttl_seconds exceeds tier maximum",
    )
    with client.sandboxes.create() as inner:
        assert inner.template == "code-interpreter"
    assert client.sandboxes.list() == []


def commands(client, url):
    with client.sandboxes.create(template="base") as sandbox:
        result = sandbox.exec("python3 -c 'print(2 ** 10)'; echo ünï >&2; exit 3", timeout_seconds=20)
        assert (result.stdout, result.stderr, result.exit_code) == ("1024\n", "ünï\n", 3)
        assert result.duration_ms >= 0
        fails(CommandFailed, lambda: sandbox.exec("exit 4", check=True))
        fails(SandboxTimeout, lambda: sandbox.exec("sleep 30", timeout_seconds=1))
        out, err = [], []
        code = sandbox.exec_stream(
            "printf 'a\\u2028\\r\\nü\\n'; sleep 0.3; echo e >&2; exit 5",
            out.append,
            err.append,
            timeout_seconds=20,
        )
        assert (code, "".join(out), "".join(err)) == (5, "a\u2028\r\nü\n", "e\n"), (code, out, err)
        fails(SandboxTimeout, lambda: sandbox.exec_stream("sleep 30", timeout_seconds=1))
        assert sandbox.run_code("print(6 * 7)").stdout == "42\n"
        sandbox.exec("echo hello; sleep 0.2; echo ünïcode >&2")
        assert list(sandbox.logs())[-2:] == ["hello", "ünïcode"]
        errors = list(sandbox.logs(stream="stderr"))
        assert (errors[-1], "hello" in errors) == ("ünïcode", False)
        follow = sandbox.logs(follow=True)
        assert {next(follow) for _ in range(2)} <= set(sandbox.logs())


def streams(client, url):
    with client.sandboxes.create(template="base") as sandbox:
        seen = []

        def stop(chunk):
            seen.append(chunk)
            raise KeyboardInterrupt

        # Interrupting the client interrupts the command, with all its children.
        try:
            sandbox.exec_stream("sleep 4711 & echo begun; wait", on_stdout=stop)
            raise AssertionError("the interrupt was swallowed")
        except KeyboardInterrupt:
            assert seen == ["begun\n"]
        over = "for i in $(seq 50); do pgrep -f 'sleep [4]711' || exit 0; sleep 0.1; done; exit 1"
        assert sandbox.exec(over).exit_code == 0
        count = [0]

        def add(chunk):
            count[0] += len(chunk)

        assert sandbox.exec_stream("head -c 5000000 /dev/zero | tr '\\0' x", on_stdout=add) == 0
        assert count == [5_000_000]


def logs(client, url):
    with client.sandboxes.create(template="base") as sandbox:
        follow = sandbox.logs(follow=True)
        worker = threading.Thread(
            target=sandbox.exec, args=("for i in 1 2 3; do echo line $i; sleep 0.2; done",)
        )
        worker.start()
        lines = [line for _, line in zip(range(3), (each for each in follow if "line" in each), strict=False)]
        assert lines == ["line 1", "line 2", "line 3"]
        worker.join()
        follow.close()


def ports(client, url):
    with client.sandboxes.create(template="base") as sandbox:
        assert sandbox.preview_url(8123, scheme="http").startswith(f"http://8123-{sandbox.id}.")
        sandbox.exec("setsid python3 -m http.server 8123 >/dev/null 2>&1 &")
        for _ in range(100):
            if 8123 in (urls := sandbox.preview_urls()):
                break
            time.sleep(0.1)
        assert f"//8123-{sandbox.id}." in urls[8123]
        request = urllib.request.Request(url, headers={"Host": urls[8123].split("//")[1]})
        with urllib.request.urlopen(request) as answer:
            assert b"Directory listing" in answer.read()


def files(client, url):
    with client.sandboxes.create(template="base") as sandbox:
        fs = sandbox.filesystem
        data = bytes(range(256)) * 100
        fs.write("/deep/日本 語+.bin", data)
        assert fs.read("/deep/日本 語+.bin") == data
        assert [entry.name for entry in fs.listdir("/deep")] == ["日本 語+.bin"]
        info = fs.stat("/deep/日本 語+.bin")
        assert (info.size, info.is_dir) == (len(data), False)
        assert fs.exists("/deep")
        assert not fs.exists("/nope")
        large = random.Random(1).randbytes(64 * 1024 * 1024)
        fs.write("/tmp/large", large)
        assert fs.read("/tmp/large") == large
        fails(NotFoundError, lambda: fs.read("/nope"))
        fails(BadRequestError, lambda: fs.read("/../etc/passwd"), "..")


def sleep(client, url):
    with client.sandboxes.create(template="base") as sandbox:
        sandbox.filesystem.write("/tmp/x", b"1")
        sandbox.hibernate()
        assert client.sandboxes.get(sandbox.id).status == "hibernated"
        assert sandbox.filesystem.read("/tmp/x") == b"1"
        assert client.sandboxes.get(sandbox.id).status == "running"
        sandbox.hibernate()
        sandbox.wake()
        sandbox.wake()
        assert sandbox.exec("echo awake").stdout == "awake\n"


def snapshots(client, url):
    sandbox = client.sandboxes.create(template="base")
    snapshot_id = sandbox.snapshot()
    assert isinstance(snapshot_id, str)
    sandbox.kill()
    (listed,) = client.snapshots.list(sandbox_id=sandbox.id)
    assert listed["id"] == snapshot_id
    assert listed["template"] == "base"
    assert client.snapshots.get(snapshot_id)["sandbox_id"] == sandbox.id
    with client.sandboxes.create(from_snapshot=snapshot_id) as again:
        assert again.from_snapshot == snapshot_id
        client.snapshots.delete(snapshot_id)
        assert again.exec("echo on").stdout == "on\n"
    assert client.snapshots.list() == []
    fails(NotFoundError, lambda: client.snapshots.get(snapshot_id))
    fails(NotFoundError, lambda: client.sandboxes.create(from_snapshot=snapshot_id), snapshot_id)


def forks(client, url):
    with client.sandboxes.create(template="base", metadata={"a": "1"}) as sandbox:
        child = sandbox.fork()
        assert child.id != sandbox.id
        assert (child.template, child.memory_mb, child.status) == ("base", 512, "running")
        assert child.exec("echo forked").stdout == "forked\n"
        # The client itself adds the parent's id to what it shows.
        labels = {"a": "1", "b": "2", "fork_parent_id": child.id}
        assert child.fork(metadata={"b": "2"}).metadata == labels
        branches = sandbox.fork_tree(3)
        (tree,) = {branch.metadata["fork_tree_id"] for branch in branches}
        done = branches[1].promote(cleanup_siblings=True)
        assert (done["winner"], done["tree_id"]) == (branches[1].id, tree)
        assert sorted(done["deleted"]) == sorted((branches[0].id, branches[2].id))
        assert done["failures"] == {}
        found = sandbox.explore(
            ["echo one", "echo two; exit 3", "echo three"],
            score_fn=lambda _, outcome: float(len(outcome.stdout_tail)),
        )
        assert found.winner.exec("echo won").stdout == "won\n"
        assert client.sandboxes.get(sandbox.id).status == "running"
        for each in client.sandboxes.list():
            if each.id != sandbox.id:
                each.kill()


def unbuilt(client, url):
    for call in (
        client.volumes.list,
        client.databases.list,
        client.functions.list,
        client.schedules.list,
        client.apps.list,
        client.templates.builds,
    ):
        fails(ServerError, call, "not built")


if __name__ == "__main__":
    run(
        (account, templates, life, commands, streams, logs, files, ports, sleep, snapshots, forks, unbuilt),
        Client(),
        os.environ["PANDASTACK_API"],
    )
