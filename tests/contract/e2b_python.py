"""Runs inside a virtual environment with a published e2b: what a coding agent does, by the client's own words."""

# mypy: ignore-errors
# (its imports exist only in that environment)

from __future__ import annotations

import asyncio
import os
import time
import urllib.request

from capability import Absent, fails, run
from e2b import (
    AsyncSandbox,
    CommandExitException,
    NotFoundException,
    Sandbox,
    SandboxQuery,
    TimeoutException,
)
from e2b_network import OLD, asked, names, network, ports, served, traffic


def commands(box):
    done = box.commands.run("echo hello $FOO; echo ünï >&2; whoami; pwd", envs={"FOO": "bar"})
    assert (done.stdout, done.stderr) == ("hello bar\nuser\n/home/user\n", "ünï\n"), done
    error = fails(CommandExitException, lambda: box.commands.run("echo err >&2; exit 3"))
    assert (error.exit_code, error.stderr) == (3, "err\n")
    # In an old one the transport's own clock may be first, with the transport's own words.
    fails(Exception if OLD else TimeoutException, lambda: box.commands.run("sleep 30", timeout=1), "time")
    assert box.commands.run("echo $INNER").stdout == "made\n"


def background(box):
    handle = box.commands.run("sleep 600", background=True)
    assert handle.pid in [process.pid for process in box.commands.list()]
    assert box.commands.kill(handle.pid)
    fails(CommandExitException, handle.wait)
    assert not box.commands.kill(handle.pid)
    handle = box.commands.run("head -n 1", background=True, stdin=True)
    box.commands.send_stdin(handle.pid, "líne\n")
    assert handle.wait().stdout == "líne\n"


def files(box):
    text = "héllo\r\n\0" * 1000
    box.files.write("/home/user/deep/ü.txt", text)
    assert box.files.read("/home/user/deep/ü.txt") == text
    blob = bytes(range(256)) * 40_000
    box.files.write("blob.bin", blob)
    assert bytes(box.files.read("blob.bin", format="bytes")) == blob
    assert [entry.name for entry in box.files.list("/home/user/deep")] == ["ü.txt"]
    assert box.files.exists("blob.bin")
    box.files.rename("blob.bin", "moved.bin")
    box.files.remove("moved.bin")
    assert not box.files.exists("moved.bin")
    assert box.files.make_dir("empty")
    fails(NotFoundException, lambda: box.files.read("/nope"))
    with urllib.request.urlopen(_signed(box, "/home/user/deep/ü.txt")) as answer:
        assert answer.read().decode() == text


def _signed(box, path):
    """A signed URL, sent where this test's server is."""
    return asked(box, 49983, box.download_url(path).split("/", 3)[3])


def watching(box):
    box.files.make_dir("watched")
    handle = box.files.watch_dir("/home/user/watched")
    box.files.write("/home/user/watched/new.txt", "x")
    seen = []
    for _ in range(50):
        seen += [event.name for event in handle.get_new_events()]
        if "new.txt" in seen:
            break
        time.sleep(0.1)
    assert "new.txt" in seen
    handle.stop()


def terminal(box):
    from e2b import PtySize

    seen = b""
    pty = box.pty.create(PtySize(rows=24, cols=80))
    box.pty.resize(pty.pid, PtySize(rows=40, cols=100))
    box.pty.send_stdin(pty.pid, b"stty size; exit\n")

    def keep(data):
        nonlocal seen
        seen += data

    pty.wait(on_pty=keep)
    assert b"40 100" in seen, seen


def looking(box):
    assert box.is_running()
    info = box.get_info()
    assert (info.sandbox_id, info.template_id, info.metadata["a b"]) == (box.sandbox_id, "base", "c&d=ü")
    before = info.end_at
    box.set_timeout(900)
    assert box.get_info().end_at > before
    found = Sandbox.list(query=SandboxQuery(metadata={"a b": "c&d=ü"})).next_items()
    assert box.sandbox_id in [each.sandbox_id for each in found]
    assert Sandbox.list(query=SandboxQuery(metadata={"a b": "other"})).next_items() == []
    *_, point = box.get_metrics()
    assert 0 < point.mem_used < point.mem_total


def timeouts(box):
    box.set_timeout(300)
    ends = box.get_info().end_at
    box.commands.run("true")
    Sandbox.connect(box.sandbox_id, timeout=60)
    assert box.get_info().end_at == ends, "neither use nor a shorter connect moves the end"
    Sandbox.connect(box.sandbox_id, timeout=900)
    assert box.get_info().end_at > ends
    with Sandbox.create(timeout=1) as short:
        for _ in range(100):
            if not short.is_running():
                break
            time.sleep(0.2)
        assert not short.is_running()
        fails(NotFoundException, short.get_info)


def resuming(box):
    lifecycle = {"on_timeout": "pause", "auto_resume": False}
    with Sandbox.create(timeout=600, lifecycle=lifecycle) as sleeper:
        shown = sleeper.get_info().lifecycle
        assert (shown["on_timeout"], shown["auto_resume"]) == ("pause", False)
        sleeper.pause()
        assert "not found" in str(fails(Exception, lambda: sleeper.commands.run("true")))
        assert "was not found" in served(sleeper, 3000)
        assert str(sleeper.get_info().state).rpartition(".")[2].lower() == "paused"
        assert Sandbox.connect(sleeper.sandbox_id).commands.run("echo awake").stdout == "awake\n"
    with Sandbox.create(timeout=600, lifecycle={"on_timeout": "pause", "auto_resume": True}) as sleeper:
        sleeper.pause()
        assert sleeper.commands.run("echo woken").stdout == "woken\n"


def forks(box):
    if not hasattr(Sandbox, "fork"):
        raise Absent
    box.files.write("forked.txt", "before")
    handle = box.commands.run("sleep 600", background=True)
    children = box.fork(count=2)
    try:
        box.files.write("forked.txt", "after")
        for child in children:
            assert child.files.read("forked.txt") == "before"
            assert handle.pid in [process.pid for process in child.commands.list()]
        assert len({child.commands.run("cat /etc/machine-id").stdout for child in [box, *children]}) == 3
    finally:
        for child in children:
            child.kill()


def snapshots(box):
    box.files.write("saved.txt", "saved")
    taken = box.create_snapshot(name=f"of-{box.sandbox_id}") if _named_snapshots() else box.create_snapshot()
    try:
        box.files.write("saved.txt", "changed")
        assert taken.snapshot_id in [each.snapshot_id for each in box.list_snapshots().next_items()]
        for template in [taken.snapshot_id, *getattr(taken, "names", [])]:
            with Sandbox.create(template, timeout=600) as made:
                assert made.files.read("saved.txt") == "saved"
    finally:
        assert Sandbox.delete_snapshot(taken.snapshot_id)
    assert not Sandbox.delete_snapshot(taken.snapshot_id)
    assert taken.snapshot_id not in [each.snapshot_id for each in Sandbox.list_snapshots().next_items()]


def _named_snapshots():
    import inspect

    return "name" in inspect.signature(Sandbox._cls_create_snapshot).parameters


def pages(box):
    metadata = {"two of": box.sandbox_id}
    with Sandbox.create(timeout=600, metadata=metadata), Sandbox.create(timeout=600, metadata=metadata):
        paginator = Sandbox.list(query=SandboxQuery(metadata=metadata), limit=1)
        seen = []
        while paginator.has_next:
            seen += [each.sandbox_id for each in paginator.next_items()]
        assert len(seen) == len(set(seen)) == 2


def asynchronous(box):
    async def work():
        made = await AsyncSandbox.create(timeout=600)
        try:
            ran = await asyncio.gather(*(made.commands.run(f"echo {number}") for number in range(8)))
            assert [done.stdout for done in ran] == [f"{number}\n" for number in range(8)]
            await made.files.write("a.txt", "ü")
            assert await made.files.read("a.txt") == "ü"
            await made.set_timeout(500)
            await made.pause()
            again = await AsyncSandbox.connect(made.sandbox_id)
            assert await again.files.read("a.txt") == "ü"
            assert len(await again.get_metrics()) >= 1
            listed = await AsyncSandbox.list().next_items()
            assert made.sandbox_id in [each.sandbox_id for each in listed]
        finally:
            assert await AsyncSandbox.kill(made.sandbox_id)

    asyncio.run(work())


def refused(box):
    wanted = [{"volume_mounts": {"/data": "volume"}}]
    if not OLD:
        wanted += [
            {"lifecycle": {"on_timeout": {"action": "pause", "keep_memory": False}}},
            {"network": {"rules": {"example.com": [{"transform": {"headers": {"a": "b"}}}]}}},
        ]
    for options in wanted:
        fails(Exception, lambda options=options: Sandbox.create(timeout=60, **options), "not supported yet")


def sleeping(box):
    box.commands.run("echo kept > /tmp/kept")
    handle = box.commands.run("sleep 600", background=True)
    (box.pause if hasattr(box, "pause") else box.beta_pause)()
    assert not box.is_running()
    assert str(box.get_info().state).rpartition(".")[2].lower() == "paused"
    again = Sandbox.connect(box.sandbox_id)
    assert again.is_running()
    assert again.commands.run("cat /tmp/kept").stdout == "kept\n"
    assert handle.pid in [process.pid for process in again.commands.list()]


def ending(box):
    assert box.kill()
    assert not box.is_running()
    assert not box.kill()
    assert "not found" in str(fails(Exception, lambda: box.commands.run("true")))


if __name__ == "__main__":
    box = Sandbox.create(timeout=600, metadata={"a b": "c&d=ü"}, envs={"INNER": "made"})
    try:
        run(
            (
                *(commands, background, files, watching, terminal, looking, pages, ports, timeouts, sleeping),
                *(resuming, forks, snapshots, network, traffic, asynchronous, refused),
                *([names] if "E2B_DOMAIN" in os.environ else []),
                ending,
            ),
            box,
        )
    finally:
        Sandbox.kill(box.sandbox_id)
