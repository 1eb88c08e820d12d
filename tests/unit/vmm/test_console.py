"""Untrusted logs: shown without what would drive a terminal, and never more than asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pandastackd.vmm.console import clean_text, tail


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"plain\ttext\n", "plain\ttext\n"),
        (b"line\r\nnext\r\n", "line\nnext\n"),
        (b"\x1b[31mred\x1b[0m", "red"),
        (b"\x1b]0;title\x07after", "after"),
        (b"\x1b]52;c;aGVsbG8=\x1b\\after", "after"),
        (b"\x1bPq secret \x1b\\after", "after"),
        (b"a\x08b\x00c\x7f", "abc"),
        ("gr\u00fc\u00dfe \u4f60\u597d".encode(), "gr\u00fc\u00dfe \u4f60\u597d"),
        ("right\u202eleft".encode(), "rightleft"),
        (b"\xff\xfe", "\ufffd\ufffd"),
    ],
)
def test_text_is_cleaned(raw: bytes, shown: str) -> None:
    assert clean_text(raw) == shown


@given(st.binary(max_size=400))
def test_nothing_that_is_shown_controls_a_terminal(raw: bytes) -> None:
    shown = clean_text(raw)
    assert all(character in "\n\t" or ord(character) >= 0x20 for character in shown)
    assert not any(0x7F <= ord(character) < 0xA0 for character in shown)


def test_the_tail_is_the_last_lines_cut_to_a_readable_width(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"\n".join(b"%d" % n for n in range(100)) + b"\n" + b"x" * 10_000 + b"\n\n")
    lines = tail(log, 3).split("\n")
    assert lines[:2] == ["98", "99"]
    assert 100 < len(lines[2]) <= 500
    assert tail(log, 0) == ""
    assert tail(tmp_path / "none", 5) == ""


def test_the_tail_of_a_huge_log_reads_only_its_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        file.truncate(1 << 40)
        file.seek(0, 2)
        file.write(b"\nend\n")
    assert tail(log, 1) == "end"
