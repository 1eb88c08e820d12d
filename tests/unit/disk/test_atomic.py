"""Atomic publication: whole or not at all, and nothing left behind. Needs nothing."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from pandastackd.disk import atomic
from pandastackd.errors import InsufficientStorage


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_json_is_replaced_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    atomic.write_json_atomically(path, {"a": 1})
    atomic.write_json_atomically(path, {"b": "ü"}, durable=False)
    assert json.loads(path.read_text()) == {"b": "ü"}
    assert path.stat().st_mode & 0o777 == 0o600
    assert _names(tmp_path) == ["record.json"]


def test_mode_holds_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        atomic.write_bytes_atomically(tmp_path / "x", b"1", mode=0o644)
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644


def test_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.json"
    atomic.write_json_atomically(path, {"a": 1})

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InsufficientStorage, match=r"record\.json"):
        atomic.write_json_atomically(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert _names(tmp_path) == ["record.json"]


def _places(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "staging").mkdir()
    (tmp_path / "snapshots").mkdir()
    return tmp_path / "staging", tmp_path / "snapshots" / "s1"


def test_staged_directory_appears_when_the_block_ends_well(tmp_path: Path) -> None:
    staging, final = _places(tmp_path)
    with atomic.staged(staging, final) as directory:
        (directory / "disk").write_bytes(b"x")
        assert not final.exists()
    assert (final / "disk").read_bytes() == b"x"
    assert list(staging.iterdir()) == []


def test_staged_directory_vanishes_when_the_block_fails(tmp_path: Path) -> None:
    staging, final = _places(tmp_path)

    def fail(directory: Path) -> None:
        (directory / "disk").write_bytes(b"x")
        raise RuntimeError

    with pytest.raises(RuntimeError), atomic.staged(staging, final) as directory:
        fail(directory)
    assert not final.exists()
    assert list(staging.iterdir()) == []


def test_staged_running_out_of_space_is_typed(tmp_path: Path) -> None:
    staging, final = _places(tmp_path)
    with pytest.raises(InsufficientStorage), atomic.staged(staging, final):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(staging.iterdir()) == []


def test_an_existing_artifact_wins(tmp_path: Path) -> None:
    staging, final = _places(tmp_path)
    with atomic.staged(staging, final) as directory:
        (directory / "who").write_text("late")
        final.mkdir()
        (final / "who").write_text("first")
    assert (final / "who").read_text() == "first"
    assert list(staging.iterdir()) == []


def test_remove_tree_is_idempotent_and_does_not_follow_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").touch()
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "link").symlink_to(outside)
    (tmp_path / "link").symlink_to(outside)
    for path in (tree, tree, tmp_path / "link", tmp_path / "link"):
        atomic.remove_tree(path)
        assert not path.is_symlink()
        assert not path.exists()
    assert (outside / "keep").exists()
