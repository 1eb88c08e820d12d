"""Runs inside an environment with langchain-e2b: every third of LangChain's own standard tests of sandboxes.

All 86 take minutes by software emulation; every third of them asks for each method but uploads.

A capability is the tests of one method: what the kit asks of ``execute``, ``read``, ``write`` and so on.
"""

# mypy: ignore-errors
# (its imports exist only in that environment)

from __future__ import annotations

import re
import sys
from collections import defaultdict

import pytest
from e2b import Sandbox
from langchain_e2b import E2BSandbox
from langchain_tests.integration_tests.sandboxes import SandboxIntegrationTests


class TestSandbox(SandboxIntegrationTests):
    """The kit on our sandbox."""

    @pytest.fixture(scope="class")
    def sandbox(self):
        box = Sandbox.create(timeout=900)
        yield E2BSandbox(sandbox=box)
        box.kill()


class Marks:
    """What became of the tests of each method."""

    def __init__(self):
        self.failed = defaultdict(list)
        self.tried = set()

    def pytest_collection_modifyitems(self, items):
        items[:] = items[::3]

    def pytest_runtest_logreport(self, report):
        found = re.search(r"::test_a?(execute|read|write|edit|ls|glob|grep|upload|download)_", report.nodeid)
        method = found[1] if found else "others"
        if report.when == "call" and not report.skipped:
            self.tried.add(method)
        if report.failed:
            self.tried.add(method)
            self.failed[method].append(report.nodeid.rpartition("::")[2])


if __name__ == "__main__":
    marks = Marks()
    sys.stdout, printed = sys.stderr, sys.stdout
    options = [
        "-q",
        "--noconftest",
        "-c",
        "/dev/null",
        "-p",
        "no:cacheprovider",
        "--tb=short",
        "-o",
        "asyncio_mode=auto",
        "-o",
        "asyncio_default_fixture_loop_scope=class",
    ]
    pytest.main([__file__, *options], plugins=[marks])
    for method in sorted(marks.tried):
        reason = f": {', '.join(marks.failed[method])}" if marks.failed[method] else ""
        # The interpreter flushes at its end only what sys.stdout is then.
        print(f"{'not ok' if reason else 'ok'} {method}{reason}", file=printed, flush=True)
