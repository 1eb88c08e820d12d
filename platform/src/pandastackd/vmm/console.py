"""Reading logs that a guest or a VMM wrote: bounded, and safe to print.

Whatever is in them came from untrusted code: escape sequences that would drive a person's terminal are taken
out.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_READ_BYTES = 64 * 1024
_LINE_CHARACTERS = 500

_ESCAPES = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # operating system commands
    r"|\x1b[PX^_][^\x1b]*(?:\x1b\\)?"  # strings
    r"|[\x1b\x9b]\[?[0-?]*[ -/]*[@-~]"  # control sequences and two-character escapes
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def clean_text(raw: bytes) -> str:
    """``raw`` as text without escape sequences and control characters; newlines and tabs stay."""
    text = raw.decode("utf-8", "replace").replace("\r\n", "\n")
    return _CONTROLS.sub("", _ESCAPES.sub("", text))


def tail(path: Path, lines: int) -> str:
    """The last ``lines`` lines of a log, long lines cut; empty when there is no log."""
    if lines <= 0:
        return ""
    try:
        with path.open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - _READ_BYTES))
            raw = log.read(_READ_BYTES)
    except FileNotFoundError:
        return ""
    kept = [line[:_LINE_CHARACTERS].rstrip() for line in clean_text(raw).split("\n")]
    while kept and not kept[-1]:
        kept.pop()
    return "\n".join(kept[-lines:])
