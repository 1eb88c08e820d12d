"""Too little disk: refused before anything is made, in words, and nothing is left behind.

Needs root, QEMU and the templates; mounts a small tmpfs.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pandastack import CapacityError, PandaStack
from pandastackd.child_server import ChildServer
from pandastackd.errors import HostFailure

from .host_state import no_leaks

MORE_THAN_ANYBODY_HAS_MIB = 10**9


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB."""
    where = tmp_path / "small"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64M", "small", where], check=True)
    yield where
    subprocess.run(["umount", where], check=True)


@pytest.mark.parametrize("folder", ["data", "."])
def test_a_data_directory_without_room_is_refused_and_left_as_it_was(
    small_disk: Path, tmp_path: Path, folder: str
) -> None:
    log = tmp_path / "log"
    with log.open("wb") as output, pytest.raises(HostFailure):
        ChildServer(small_disk / folder, output=output).start()
    said = log.read_text()
    assert "not enough disk space" in said
    assert "Traceback" not in said
    assert list(small_disk.iterdir()) == []


def test_a_create_without_room_is_refused_and_leaves_nothing(server: ChildServer, client: PandaStack) -> None:
    server.stop()
    server.env["PANDASTACK_DISK_RESERVE_MIB"] = str(MORE_THAN_ANYBODY_HAS_MIB)
    try:
        server.start()
        with (
            PandaStack(token=server.admin_key, base_url=server.url, max_create_retry_seconds=0) as impatient,
            pytest.raises(CapacityError, match="disk") as refused,
        ):
            impatient.sandboxes.create(template="base")
        assert refused.value.status_code == 507
        assert "MiB" in refused.value.message
        assert client.sandboxes.list() == []
        no_leaks(server.data_dir, client.sandboxes.list)
    finally:
        server.stop()
        del server.env["PANDASTACK_DISK_RESERVE_MIB"]
        server.start()


def test_a_create_without_memory_is_refused_and_leaves_nothing(
    server: ChildServer, client: PandaStack
) -> None:
    server.stop()
    server.env["PANDASTACK_MEMORY_RESERVE_MIB"] = str(MORE_THAN_ANYBODY_HAS_MIB)
    try:
        server.start()
        with (
            PandaStack(token=server.admin_key, base_url=server.url, max_create_retry_seconds=0) as impatient,
            pytest.raises(CapacityError, match="memory") as refused,
        ):
            impatient.sandboxes.create(template="base")
        assert refused.value.status_code == 507
        no_leaks(server.data_dir, client.sandboxes.list)
    finally:
        server.stop()
        del server.env["PANDASTACK_MEMORY_RESERVE_MIB"]
        server.start()
