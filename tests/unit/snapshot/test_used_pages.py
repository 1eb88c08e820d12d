"""Reading ahead is a hint: it does what a list says, and nothing where the list is missing or makes no sense."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pandastackd.snapshot.used_pages import USED, read_ahead

PAGE = 4096


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    path = tmp_path / "memory"
    path.write_bytes(b"x" * PAGE * 64)
    return path


def test_what_the_list_names_is_asked_for_in_its_order(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def fadvise(fd: int, offset: int, length: int, advice: int) -> None:
        assert Path(f"/proc/self/fd/{fd}").readlink() == memory
        assert advice == os.POSIX_FADV_WILLNEED
        asked.append((offset, length))

    monkeypatch.setattr(os, "posix_fadvise", fadvise)
    runs = [[PAGE, 2 * PAGE], [PAGE * 40, PAGE]]
    (memory.parent / USED).write_text(json.dumps(runs))
    assert read_ahead(memory) == 3 * PAGE
    assert asked == [(PAGE, 2 * PAGE), (PAGE * 40, PAGE)]


@pytest.mark.parametrize(
    "text", [None, "", "{", "3", '[["a", 1]]', "[[1]]", '{"a": 1}', "[[1e99, 1]]", f"[[{2**70}, 1]]"]
)
def test_a_list_that_is_missing_or_makes_no_sense_asks_for_nothing(memory: Path, text: str | None) -> None:
    if text is not None:
        (memory.parent / USED).write_text(text)
    assert read_ahead(memory) == 0
    assert not any(_leads_to(open_file, memory) for open_file in Path("/proc/self/fd").iterdir()), (
        "it is closed again"
    )


def test_memory_that_is_gone_asks_for_nothing(memory: Path) -> None:
    (memory.parent / USED).write_text("[[0, 4096]]")
    memory.unlink()
    assert read_ahead(memory) == 0


def _leads_to(link: Path, path: Path) -> bool:
    try:
        return link.readlink() == path
    except OSError:
        return False
