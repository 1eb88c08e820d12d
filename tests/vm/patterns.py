"""The host's side of ``guest_writer.py``: start it in a sandbox, and have it verify all it wrote."""

from __future__ import annotations

import secrets
from pathlib import Path

from pandastack import Sandbox

FOLDER = "/home/user/pattern"
_PROGRAM = Path(__file__).with_name("guest_writer.py")
_WAIT = "for i in $(seq 600); do [ -e {path} ] && break; sleep 0.1; done; cat {path}"


def start_writing(sandbox: Sandbox, *, memory_mib: int = 24, shared_mib: int = 8) -> str:
    """Start the writer; returns its key when all places hold the pattern and it writes on."""
    key = f"{secrets.randbits(63) | 1 << 62:x}"
    sandbox.filesystem.write("/tmp/guest_writer.py", _PROGRAM.read_bytes())
    words = f"setsid python3 /tmp/guest_writer.py {key} {memory_mib} {shared_mib} {FOLDER}"
    sandbox.exec(f"{words} >/tmp/writer.log 2>&1 </dev/null & echo", check=True)
    ready = sandbox.exec(_WAIT.format(path=f"{FOLDER}/ready"), timeout_seconds=90)
    assert ready.exit_code == 0, sandbox.exec("cat /tmp/writer.log").stdout
    return key


def verified(sandbox: Sandbox) -> None:
    """Assert that the writer goes on in ``sandbox`` and finds every byte in memory and files as it wrote it."""
    answer = f"{FOLDER}/answer"
    asked = sandbox.exec(
        f"rm -f {answer}; touch {FOLDER}/ask; " + _WAIT.format(path=answer), timeout_seconds=90
    )
    assert asked.stdout.startswith("intact "), (asked, sandbox.exec("cat /tmp/writer.log").stdout)
