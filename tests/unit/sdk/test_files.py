"""Files over a real connection: exact bytes, flat memory, and no half files."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

import pandastack
from pandastack import AsyncPandaStack, AsyncSandbox, PandaStack, Sandbox
from pandastack.testing import MockPlatform

from .conftest import LoopbackServer, json_answer

FS = "/v1/sandboxes/sb/fs"
BIG = 64 * 1024 * 1024


class Store:
    """The server's side: digests what is put, gives zeros."""

    def __init__(self, server: LoopbackServer) -> None:
        self.digest = ""
        self.size = 0
        self.headers: dict[str, str] = {}
        server.answers[f"PUT {FS}"] = self._put

    def _put(self, request: BaseHTTPRequestHandler) -> None:
        self.headers = {name.lower(): value for name, value in request.headers.items()}
        digest, self.size = hashlib.sha256(), 0
        for chunk in self._body(request):
            digest.update(chunk)
            self.size += len(chunk)
        self.digest = digest.hexdigest()
        json_answer(200, json.dumps({"path": "/f", "bytes": self.size}))(request)

    def _body(self, request: BaseHTTPRequestHandler) -> Iterator[bytes]:
        if "content-length" in self.headers:
            left = int(self.headers["content-length"])
            while left:
                chunk = request.rfile.read(min(left, 1 << 20))
                left -= len(chunk)
                yield chunk
            return
        while size := int(request.rfile.readline(), 16):
            yield request.rfile.read(size)
            request.rfile.readline()
        request.rfile.readline()


@pytest.fixture
def store(loopback: LoopbackServer) -> Store:
    return Store(loopback)


@pytest.fixture
def sandbox(loopback: LoopbackServer) -> Sandbox:
    return Sandbox.from_dict({"id": "sb"}, PandaStack(loopback.url, "k"))


def _give(size: int, said: int | None = None) -> object:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("content-length", str(size if said is None else said))
        request.end_headers()
        block = bytes(1 << 20)
        for start in range(0, size, len(block)):
            request.wfile.write(block[: size - start])
        request.close_connection = True

    return answer


def test_upload_streams_with_its_length(store: Store, sandbox: Sandbox, tmp_path: Path) -> None:
    source = tmp_path / "big"
    with source.open("wb") as file:
        file.truncate(BIG)
    steps: list[int] = []
    tracemalloc.start()
    result = sandbox.filesystem.upload(source, "/f", on_progress=steps.append)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.bytes == store.size == BIG
    assert store.digest == hashlib.sha256(bytes(BIG)).hexdigest()
    assert store.headers["content-length"] == str(BIG)
    assert steps[-1] == BIG
    assert steps == sorted(steps)
    assert peak < BIG / 2  # client and server of this test are one process


def test_download_streams(loopback: LoopbackServer, sandbox: Sandbox, tmp_path: Path) -> None:
    loopback.answers[f"GET {FS}"] = _give(BIG)  # type: ignore[assignment]
    tracemalloc.start()
    sandbox.filesystem.download("/some/f", tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "f").stat().st_size == BIG
    assert peak < BIG / 2


def test_a_broken_download_leaves_what_was_there(
    loopback: LoopbackServer, sandbox: Sandbox, tmp_path: Path
) -> None:
    loopback.answers[f"GET {FS}"] = _give(5 << 20, said=9 << 20)  # type: ignore[assignment]
    target = tmp_path / "f"
    target.write_text("old")
    with pytest.raises(pandastack.ConnectionError, match="broke"):
        sandbox.filesystem.download("/f", target)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_missing_file_makes_no_local_one(
    loopback: LoopbackServer, sandbox: Sandbox, tmp_path: Path
) -> None:
    loopback.answers[f"GET {FS}"] = json_answer(404, '{"error": "no such file"}')
    with pytest.raises(pandastack.NotFoundError):
        sandbox.filesystem.download("/f", tmp_path / "f")
    assert list(tmp_path.iterdir()) == []


def test_streams_of_unknown_length(store: Store, sandbox: Sandbox) -> None:
    result = sandbox.filesystem.write_stream("/f", (bytes([n]) * 1000 for n in range(3)))
    assert result.bytes == store.size == 3000
    assert store.headers["transfer-encoding"] == "chunked"
    assert store.headers["content-type"] == "application/octet-stream"


@pytest.mark.anyio
async def test_async_upload_and_download(store: Store, loopback: LoopbackServer, tmp_path: Path) -> None:
    loopback.answers[f"GET {FS}"] = _give(3 << 20)  # type: ignore[assignment]
    (tmp_path / "a").write_bytes(b"x" * (2 << 20))
    async with AsyncPandaStack(loopback.url, "k") as client:
        files = AsyncSandbox.from_dict({"id": "sb"}, client).filesystem
        assert (await files.upload(tmp_path / "a", "/f")).bytes == 2 << 20
        await files.download("/f", tmp_path / "b")

        async def chunks() -> object:
            yield b"1"
            yield b"2"

        assert (await files.write_stream("/f", chunks())).bytes == 2  # type: ignore[arg-type]
        assert (await files.write_stream("/f", [b"1"])).bytes == 1
    assert (tmp_path / "b").stat().st_size == 3 << 20


def test_read_write_list_walk_remove() -> None:
    files = MockPlatform().client().sandboxes.create().filesystem
    content = bytes(range(256))
    assert files.write("/w/bin", content).bytes == 256
    files.write("/w/sub/ünï ✓.txt", "text ✓")
    assert files.read("/w/bin") == content
    assert files.read_text("/w/sub/ünï ✓.txt") == "text ✓"
    assert [(entry.path, entry.is_dir) for entry in files.listdir("/w")] == [
        ("/w/bin", False),
        ("/w/sub", True),
    ]
    assert [
        (top, [d.name for d in dirs], [f.name for f in found]) for top, dirs, found in files.walk("/w")
    ] == [
        ("/w", ["sub"], ["bin"]),
        ("/w/sub", [], ["ünï ✓.txt"]),
    ]
    assert files.stat("/w/bin").size == 256
    assert files.exists("/w/sub")
    files.remove("/w/bin")
    assert not files.exists("/w/bin")
    assert files.write("/r", "")["bytes"] == 0  # read as the published client's dictionary


def test_walk_does_not_enter_what_was_taken_out() -> None:
    files = MockPlatform().client().sandboxes.create().filesystem
    files.write("/w/a/x", "")
    files.write("/w/b/y", "")
    seen = []
    for top, directories, _ in files.walk("/w"):
        seen.append(top)
        directories[:] = [entry for entry in directories if entry.name != "a"]
    assert seen == ["/w", "/w/b"]
