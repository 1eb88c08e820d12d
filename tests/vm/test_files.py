"""Files in a real guest: any name, any bytes, any size; and every path that cannot be honoured.

Needs root, QEMU and the templates. ``PANDASTACK_TEST_BIG_MIB`` sets the size of the big file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

import pytest

from pandastack import BadRequestError, NotFoundError, PandastackError, Sandbox
from pandastackd.child_server import ChildServer

from .conftest import peak_memory_kib

MIB = 1 << 20
BIG_MIB = int(os.environ.get("PANDASTACK_TEST_BIG_MIB", "1024"))

NAMES = [
    "plain.txt",
    "with space",
    "日本語.txt",
    "имя файла",
    "ملف",
    "🐼.bin",
    "a+b&c=d%20e?f#g",
    "quote'\"`$(id)",
    "new\nline",
    "tab\there",
    "..hidden",
    "dots...",
    "-rf",
    "e\u0301",  # decomposed: must not be normalised
    "\u202egnp.exe",
    "x" * 255,
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_holds_any_bytes(shared_sandbox: Sandbox, name: str) -> None:
    files = shared_sandbox.filesystem
    content = os.urandom(1000) + bytes(range(256)) + b"\r\n\0"
    path = f"/tmp/names/{name}"
    files.write(path, content)
    assert files.read(path) == content
    assert files.stat(path).size == len(content)
    assert name in [entry.name for entry in files.listdir("/tmp/names")]
    files.remove(path)
    assert not files.exists(path)
    with pytest.raises(NotFoundError):
        files.remove(path)


def test_an_empty_file_is_a_file(shared_sandbox: Sandbox) -> None:
    shared_sandbox.filesystem.write("/tmp/empty", b"")
    assert shared_sandbox.filesystem.read("/tmp/empty") == b""
    assert shared_sandbox.filesystem.stat("/tmp/empty").size == 0


def test_a_written_file_is_the_user_s_and_its_folders_are_made(shared_sandbox: Sandbox) -> None:
    shared_sandbox.filesystem.write("/home/user/new/deep/file", "text")
    seen = shared_sandbox.exec("stat -c '%U %a' new new/deep new/deep/file; cat new/deep/file")
    assert seen.stdout.splitlines() == ["user 755", "user 755", "user 644", "text"]


def test_what_is_missing_in_a_folder_of_root_s_is_made_and_is_the_user_s(shared_sandbox: Sandbox) -> None:
    for _ in range(2):
        shared_sandbox.filesystem.write("/data/in/file", "text")
        shared_sandbox.filesystem.write("/usr/local/share/new", "text")
    seen = shared_sandbox.exec(
        "stat -c '%U %a' /data /data/in /data/in/file /usr/local/share/new /usr/local/share"
    )
    assert seen.stdout.splitlines() == ["user 755", "user 755", "user 644", "user 644", "root 755"]


def test_writing_again_replaces_the_whole_file(shared_sandbox: Sandbox) -> None:
    shared_sandbox.filesystem.write("/tmp/again", b"a long first content")
    shared_sandbox.filesystem.write("/tmp/again", b"short")
    assert shared_sandbox.filesystem.read("/tmp/again") == b"short"


@pytest.mark.parametrize(
    "path", ["/tmp/../etc/passwd", "..", "/tmp/..", "../x", "/tmp/a\0b", "", "/" + "x/" * 3000]
)
@pytest.mark.parametrize("verb", ["read", "write", "stat", "listdir", "remove"])
def test_a_path_that_cannot_be_honoured_is_refused(shared_sandbox: Sandbox, verb: str, path: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        getattr(shared_sandbox.filesystem, verb)(path, *([b"x"] if verb == "write" else []))
    assert refused.value.status_code == 400
    assert refused.value.code == "invalid_path"
    assert refused.value.request_id


@pytest.mark.parametrize("verb", ["read", "stat", "listdir"])
def test_what_is_missing_is_not_found(shared_sandbox: Sandbox, verb: str) -> None:
    for path in ("/tmp/not/there", "/proc/self/no-such", "/tmp/not-there"):
        with pytest.raises(NotFoundError) as missing:
            getattr(shared_sandbox.filesystem, verb)(path)
        assert missing.value.code != "internal"


def test_a_folder_is_no_file_and_a_file_no_folder(shared_sandbox: Sandbox) -> None:
    files = shared_sandbox.filesystem
    files.write("/tmp/file", b"x")
    for refused in (
        lambda: files.read("/tmp"),
        lambda: files.write("/tmp", b"x"),
        lambda: files.listdir("/tmp/file"),
        lambda: files.write("/tmp/file/below", b"x"),
    ):
        with pytest.raises(BadRequestError) as error:
            refused()
        assert error.value.status_code == 400


def test_the_root_cannot_be_removed(shared_sandbox: Sandbox) -> None:
    for path in ("/", "//", "/./", "."):
        with pytest.raises(BadRequestError):
            shared_sandbox.filesystem.remove(path)


def test_what_the_user_may_not_touch_is_refused(shared_sandbox: Sandbox) -> None:
    for attempt in (
        lambda: shared_sandbox.filesystem.read("/etc/shadow"),
        lambda: shared_sandbox.filesystem.write("/etc/passwd", b"x"),
        lambda: shared_sandbox.filesystem.write("/root/new", b"x"),
        lambda: shared_sandbox.filesystem.remove("/etc/passwd"),
    ):
        with pytest.raises(PandastackError) as error:
            attempt()
        assert error.value.status_code in (400, 403), error.value
    seen = shared_sandbox.exec(
        "sudo test -e /root/new || stat -c '%U %a' /etc/passwd; grep -c ^root: /etc/passwd"
    )
    assert seen.stdout.splitlines() == ["root 644", "1"]


def test_symbolic_links_are_followed_and_removed_as_links(shared_sandbox: Sandbox) -> None:
    files = shared_sandbox.filesystem
    files.write("/tmp/target", b"goal")
    shared_sandbox.exec("cd /tmp; ln -sfn target link; ln -sfn nowhere dangling; ln -sfn loop loop")
    assert files.read("/tmp/link") == b"goal"
    with pytest.raises(NotFoundError):
        files.read("/tmp/dangling")
    with pytest.raises(BadRequestError):
        files.read("/tmp/loop")
    assert {"link", "dangling", "loop"} <= {entry.name for entry in files.listdir("/tmp")}
    files.remove("/tmp/link")
    assert files.read("/tmp/target") == b"goal"


def test_what_is_no_regular_file_does_not_hang(shared_sandbox: Sandbox) -> None:
    shared_sandbox.exec("mkfifo /tmp/pipe")
    with pytest.raises(BadRequestError):
        shared_sandbox.filesystem.read("/tmp/pipe")
    with pytest.raises(BadRequestError):
        shared_sandbox.filesystem.read("/dev/zero")
    assert shared_sandbox.filesystem.read("/proc/sys/kernel/hostname").decode().strip() == shared_sandbox.id


def test_a_disk_that_is_full_is_said_so_and_leaves_no_half_file(shared_sandbox: Sandbox) -> None:
    shared_sandbox.exec(
        "mkdir -p /tmp/small; sudo mount -t tmpfs -o size=1M,mode=777 small /tmp/small", check=True
    )
    with pytest.raises(PandastackError) as full:
        shared_sandbox.filesystem.write("/tmp/small/file", bytes(4 * MIB))
    assert full.value.status_code == 507, full.value
    assert shared_sandbox.filesystem.listdir("/tmp/small") == []


def _noise(mib: int) -> Iterator[bytes]:
    block = os.urandom(MIB)
    for number in range(mib):
        yield number.to_bytes(8, "big") + block[8:]


def test_a_big_file_streams_both_ways_in_flat_memory(server: ChildServer, sandbox: Sandbox) -> None:
    before = peak_memory_kib(server.pid)
    sent = hashlib.sha256()

    def chunks() -> Iterator[bytes]:
        for chunk in _noise(BIG_MIB):
            sent.update(chunk)
            yield chunk

    sandbox.filesystem.write_stream("/home/user/big", chunks())
    assert sandbox.filesystem.stat("/home/user/big").size == BIG_MIB * MIB
    received = hashlib.sha256()
    for chunk in sandbox.filesystem.read_stream("/home/user/big"):
        received.update(chunk)
    assert received.hexdigest() == sent.hexdigest()
    assert peak_memory_kib(server.pid) - before < 48 * 1024


def test_an_upload_that_breaks_off_leaves_what_was_there(shared_sandbox: Sandbox) -> None:
    shared_sandbox.filesystem.write("/tmp/kept", b"first")

    def broken() -> Iterator[bytes]:
        yield bytes(MIB)
        raise RuntimeError("the client dies here")

    with pytest.raises(RuntimeError):
        shared_sandbox.filesystem.write_stream("/tmp/kept", broken())
    assert shared_sandbox.filesystem.read("/tmp/kept") == b"first"
