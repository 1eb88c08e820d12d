"""What all tests share: one event loop flavour, and plain words on what this machine could not run.

A test, or a whole file through ``pytestmark``, says what it needs:

    pytestmark = pytest.mark.needs("root", "qemu-system-x86_64")

``root``, ``kvm`` and ``tun`` are looked up below; any other word is a program on PATH. Everything below
``tests/vm`` and ``tests/fault`` needs root without saying so. What is missing skips the test, and the run
closes with the list by name.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_ROOT_FOLDERS = (_HERE / "vm", _HERE / "fault")


def _device_opens(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


_KNOWN: dict[str, tuple[Callable[[], bool], str]] = {
    "root": (lambda: os.geteuid() == 0, "needs root: run it with sudo"),
    "kvm": (lambda: _device_opens("/dev/kvm"), "needs /dev/kvm"),
    "tun": (lambda: _device_opens("/dev/net/tun"), "needs /dev/net/tun: load the module tun"),
}


def _lack(need: str) -> str | None:
    """Why ``need`` is not met here; ``None`` when it is."""
    if need in _KNOWN:
        met, reason = _KNOWN[need]
        return None if met() else reason
    return None if shutil.which(need) else f"needs the program {need}: `make setup` installs it"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "needs(*what): root, kvm, tun, or programs without which a test cannot run"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    answers: dict[str, str | None] = {}
    for item in items:
        needs = [str(need) for mark in item.iter_markers("needs") for need in mark.args]
        if any(folder in item.path.parents for folder in _ROOT_FOLDERS):
            needs.append("root")
        for need in needs:
            if need not in answers:
                answers[need] = _lack(need)
        reasons = sorted({reason for need in needs if (reason := answers[need])})
        if reasons:
            item.add_marker(pytest.mark.skip(reason="; ".join(reasons)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if not skipped:
        return
    terminalreporter.section("not run on this machine")
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        terminalreporter.line(f"{report.nodeid}: {reason.removeprefix('Skipped: ')}")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The platform runs on asyncio; running every async test on trio as well would test nothing of ours."""
    return "asyncio"
