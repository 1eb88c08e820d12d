"""Runs inside a virtual environment with a published e2b: what a coding agent does, by the client's own words."""

# mypy: ignore-errors
# (its imports exist only in that environment)

from __future__ import annotations

import os
import time
import urllib.request

from capability import fails, run
from e2b import (
    CommandExitException,
    NotFoundException,
    Sandbox,
    SandboxQuery,
    TimeoutException,
)


def commands(box):
    done = box.commands.run("echo hello $FOO; echo ünï >&2; whoami; pwd", envs={"FOO": "bar"})
    assert (done.stdout, done.stderr) == ("hello bar\nuser\n/home/user\n", "ünï\n"), done
    error = fails(CommandExitException, lambda: box.commands.run("echo err >&2; exit 3"))
    assert (error.exit_code, error.stderr) == (3, "err\n")
    fails(TimeoutException, lambda: box.commands.run("sleep 30", timeout=1))
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
    """A signed URL, sent where this test's server is: the name in it needs a wildcard DNS entry."""
    url = box.download_url(path)
    base = os.environ["E2B_SANDBOX_URL"]
    request = urllib.request.Request(base + "/" + url.split("/", 3)[3])
    request.add_header("Host", box.get_host(49983))
    return request


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
    (point,) = box.get_metrics()
    assert 0 < point.mem_used < point.mem_total


def ports(box):
    box.commands.run("python3 -m http.server 3000", background=True)
    request = urllib.request.Request(os.environ["E2B_SANDBOX_URL"] + "/")
    request.add_header("Host", box.get_host(3000))
    for _ in range(100):
        try:
            with urllib.request.urlopen(request) as answer:
                assert b"Directory listing" in answer.read()
                return
        except urllib.error.HTTPError as error:
            said = error.read().decode()
        assert "port is not open" in said, said
        time.sleep(0.2)
    raise AssertionError("the port never opened")


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
        run((commands, background, files, watching, terminal, looking, ports, sleeping, ending), box)
    finally:
        Sandbox.kill(box.sandbox_id)
