"""Files over HTTP, streamed both ways. Needs nothing."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator

import httpx
import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from pandastackd.api.streaming import Pump, Streamed
from tests.unit.fakes import FakeAgent, flat_memory

pytestmark = pytest.mark.anyio


@pytest.fixture
async def fs(http: httpx.AsyncClient) -> str:
    made = await http.post("/v1/sandboxes", json={"template": "base"})
    return f"/v1/sandboxes/{made.json()['id']}/fs"


@pytest.mark.parametrize(
    "name",
    ["a.txt", "with space", "plus+plus", "日本語.txt", "ünï&=?#%.bin", "new\nline", "-rf", "...", "a..b"],
)
async def test_write_stat_read_list_delete(http: httpx.AsyncClient, fs: str, name: str) -> None:
    path = f"/deep/er/{name}"
    data = bytes(range(256)) * 10
    wrote = await http.put(fs, params={"path": path}, content=data)
    assert wrote.status_code == 200
    assert wrote.json() == {"path": path, "bytes": len(data)}
    read = await http.get(fs, params={"path": path})
    assert read.content == data
    assert read.headers["content-type"] == "application/octet-stream"
    assert read.headers["content-length"] == str(len(data))
    found = (await http.get(f"{fs}/stat", params={"path": path})).json()
    assert (found["name"], found["is_dir"], found["size"]) == (name, False, len(data))
    assert found["mode"].startswith("06")
    assert isinstance(found["mtime"], int)
    listed = (await http.get(f"{fs}/dir", params={"path": "/deep/er"})).json()
    assert listed == {"path": "/deep/er", "entries": [found]}
    assert (await http.delete(fs, params={"path": path})).status_code == 204
    for where in (fs, f"{fs}/stat"):
        assert (await http.get(where, params={"path": path})).status_code == 404
    assert (await http.delete(fs, params={"path": path})).status_code == 404


async def test_paths_arrive_form_encoded(http: httpx.AsyncClient, fs: str) -> None:
    assert (await http.put(f"{fs}?path=/with+space%2Bplus", content=b"x")).status_code == 200
    assert (await http.get(f"{fs}/stat", params={"path": "/with space+plus"})).status_code == 200


async def test_empty_files(http: httpx.AsyncClient, fs: str) -> None:
    assert (await http.put(f"{fs}?path=/empty", content=b"")).json()["bytes"] == 0
    read = await http.get(f"{fs}?path=/empty")
    assert (read.status_code, read.content) == (200, b"")


@pytest.mark.parametrize("path", ["", "..", "../etc/passwd", "/a/../../b", "/a/..", "a\0b", "x" * 5000])
async def test_bad_paths_are_400(http: httpx.AsyncClient, fs: str, path: str, agent: FakeAgent) -> None:
    for method, where in (
        ("GET", fs),
        ("PUT", fs),
        ("DELETE", fs),
        ("GET", f"{fs}/dir"),
        ("GET", f"{fs}/stat"),
    ):
        response = await http.request(method, where, params={"path": path})
        assert (response.status_code, response.json()["code"]) == (400, "invalid_path"), (method, where)


async def test_a_missing_path_is_named(http: httpx.AsyncClient, fs: str) -> None:
    response = await http.get(fs)
    assert (response.status_code, response.json()["error"]) == (400, "'path' is missing")


async def test_the_root_cannot_be_removed(http: httpx.AsyncClient, fs: str) -> None:
    for path in ("/", "//", "/.", "."):
        assert (await http.delete(fs, params={"path": path})).status_code == 400


async def test_reading_a_folder_is_400(http: httpx.AsyncClient, fs: str) -> None:
    await http.put(f"{fs}?path=/d/f", content=b"")
    assert (await http.get(f"{fs}?path=/d")).status_code == 400


async def test_a_large_file_passes_in_flat_memory(live: httpx.AsyncClient, fs: str) -> None:
    size, piece = 1024 * 1024 * 1024, b"0123456789abcdef" * 4096

    async def body() -> AsyncIterator[bytes]:
        for _ in range(size // len(piece)):
            yield piece

    got, wanted = hashlib.sha256(), hashlib.sha256()
    with flat_memory(48):
        wrote = await live.put(f"{fs}?path=/big", content=body())
        assert wrote.json()["bytes"] == size
        async with live.stream("GET", f"{fs}?path=/big") as response:
            async for chunk in response.aiter_raw():
                got.update(chunk)
    for _ in range(size // len(piece)):
        wanted.update(piece)
    assert got.hexdigest() == wanted.hexdigest()


@pytest.mark.parametrize(("size", "whole"), [(6, True), (7, False), (None, False)])
async def test_a_client_that_leaves_with_all_it_was_promised_is_not_one_that_broke_off(
    size: int | None, whole: bool
) -> None:
    has_all, released = asyncio.Event(), asyncio.Event()

    async def source() -> AsyncGenerator[bytes]:
        try:
            yield b"abc"
            yield b"def"
            has_all.set()
            await asyncio.Event().wait()
        finally:
            released.set()

    async def receive() -> Message:
        await has_all.wait()
        while len(sent) < 3:
            await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    sent: list[Message] = []
    answer = Streamed(await Pump.open(source()), media_type="text/plain", size=size)
    try:
        await answer({"type": "http"}, receive, send)
    except ClientDisconnect:
        assert not whole
    else:
        assert whole
        assert sent[-1]["more_body"] is False
    assert released.is_set()
