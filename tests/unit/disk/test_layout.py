"""The data directory's names, and what it refuses before it touches anything. Needs nothing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pandastackd.disk import image, space
from pandastackd.disk.layout import DataDir
from pandastackd.disk.lock import DirectoryLock
from pandastackd.errors import Conflict, InsufficientStorage, InvalidRequest


@given(st.text(max_size=200))
def test_no_name_leads_out_of_its_folder(name: str) -> None:
    data = DataDir(Path("/nowhere"))
    try:
        path = data.sandbox(name)
    except InvalidRequest:
        return
    assert path.parent == data.sandboxes
    assert Path(os.path.normpath(path)) == path


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "a\0b", "-rf", "é", "a" * 129, "a\n"])
def test_unsafe_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest):
        DataDir(Path("/nowhere")).snapshot(name)


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "passwd").touch()
    tmp_path.chmod(0o755)
    with pytest.raises(InvalidRequest, match="passwd") as caught:
        DataDir(tmp_path).prepare(image_gib=4, reserve_mib=0)
    assert caught.value.code == "not_a_data_dir"
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in tmp_path.iterdir()] == ["passwd"]


def test_a_file_is_not_a_data_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidRequest, match="not a folder"):
        DataDir(tmp_path / "file").prepare(image_gib=4, reserve_mib=0)


def test_space_is_checked_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "free_mib", lambda *_: 5000)
    with pytest.raises(
        InsufficientStorage, match=r"4096 MiB are needed and 2048 MiB.*only 5000 MiB are free"
    ):
        DataDir(tmp_path / "a" / "b").prepare(image_gib=64, reserve_mib=2048)
    assert list(tmp_path.iterdir()) == []


def test_an_image_needs_room_and_takes_away_what_a_killed_run_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = tmp_path / "pandastack.img.part"
    half.write_bytes(b"half")
    monkeypatch.setattr(image, "free_mib", lambda *_: image.LEAST_MIB + 9)
    with pytest.raises(InsufficientStorage):
        image.create_image(tmp_path / "pandastack.img", largest_mib=8192, reserve_mib=10)
    assert list(tmp_path.iterdir()) == []


def test_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    first, second = DirectoryLock(tmp_path / "lock"), DirectoryLock(tmp_path / "lock")
    first.acquire()
    first.acquire()
    with pytest.raises(Conflict, match=rf"pid {os.getpid()}\b") as caught:
        second.acquire()
    assert caught.value.code == "data_dir_in_use"
    assert not second.held
    first.release()
    second.acquire()
    assert second.held
    second.release()
    second.release()


def test_a_lock_is_not_inherited(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path / "lock")
    lock.acquire()
    # With close_fds the answer would always be yes; the first byte says that the program really runs.
    command = ["sh", "-c", "echo; exec sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, close_fds=False) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.read(1) == b"\n"
            lock.release()
            DirectoryLock(tmp_path / "lock").acquire()
        finally:
            child.kill()
