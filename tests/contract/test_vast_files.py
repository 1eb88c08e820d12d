"""A file past the 32-bit border, whole, through the real platform and the real guest agent: right bytes, flat memory.

The agent is a process of this machine (``bench/stand_in.py``), since an emulated guest needs minutes for as much.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from bench.stand_in import stand_in

from pandastack import PandaStack
from tests.vm.conftest import peak_memory_kib

MIB = 1 << 20
SIZE = (4 << 30) + 5
FLAT_KIB = 32 * 1024


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """Where the file may be, on the disk; gone after the test."""
    if shutil.disk_usage(tmp_path).free < 2 * SIZE:
        pytest.skip("needs 8 GiB of free disk space")
    yield tmp_path / "vast"
    (tmp_path / "vast").unlink(missing_ok=True)


def pieces(seen: hashlib._Hash) -> Iterator[bytes]:
    """``SIZE`` bytes of which no two MiB are the same."""
    block = os.urandom(MIB)
    for start in range(0, SIZE, MIB):
        piece = (start.to_bytes(8, "big") + block[8:])[: SIZE - start]
        seen.update(piece)
        yield piece


def upload(url: str, target: str, headers: dict[str, str]) -> bytes:
    """Send the file; its digest."""
    sent = hashlib.sha256()
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request("PUT", target, pieces(sent), headers | {"Content-Length": str(SIZE)})
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["bytes"]) == (200, SIZE)
    connection.close()
    return sent.digest()


def download(url: str, target: str, headers: dict[str, str]) -> bytes:
    """Receive the file; its digest."""
    received, buffer = hashlib.sha256(), memoryview(bytearray(MIB))
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request("GET", target, headers=headers)
    answer = connection.getresponse()
    assert (answer.status, answer.headers["content-length"]) == (200, str(SIZE))
    while count := answer.readinto(buffer):
        received.update(buffer[:count])
    connection.close()
    return received.digest()


@pytest.mark.timeout(600)
def test_it_goes_up_and_down_whole(file: Path) -> None:
    with stand_in() as platform:
        pids = (platform.server_pid, platform.agent_pid)
        sandbox = PandaStack(token=platform.key, base_url=platform.url).sandboxes.create(template="base")
        before = [peak_memory_kib(pid) for pid in pids]
        key = {"Authorization": f"Bearer {platform.key}"}
        sent = upload(platform.url, f"/v1/sandboxes/{sandbox.id}/fs?path={quote(str(file))}", key)
        envd = {"E2b-Sandbox-Id": sandbox.id, "E2b-Sandbox-Port": "49983"}
        assert download(platform.url, f"/files?path={quote(str(file))}", envd) == sent
        for pid, peak in zip(pids, before, strict=True):
            assert peak_memory_kib(pid) - peak < FLAT_KIB, "memory grew with the file"
