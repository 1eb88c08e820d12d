"""Charts and tables as data: made of real figures and frames, read by E2B's client. Needs the package registry."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
INSIDE = HERE.parents[1] / "templates" / "code-interpreter" / "files" / "inside"
PACKAGES = ("e2b-code-interpreter==2.11.5", "matplotlib>=3.10", "pandas>=2.2")
CHECKS = ("line", "scales", "scatter", "bars", "pie", "boxes", "several", "nothing", "tables")


@pytest.mark.timeout(600)
def test_every_kind_of_chart(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    uv = [sys.executable, "-m", "uv"]
    environment = {**os.environ, "UV_SYSTEM_CERTS": "1"}
    for step in (
        [*uv, "venv", "--quiet", "--python", sys.executable, str(tmp_path / "venv")],
        [*uv, "pip", "install", "--quiet", "--no-config", "--python", str(python), *PACKAGES],
    ):
        done = subprocess.run(step, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            pytest.skip(f"matplotlib cannot be installed: {done.stderr.strip()[-300:]}")
    ran = subprocess.run(
        [python, HERE / "charts_inside.py", INSIDE], capture_output=True, text=True, check=False, timeout=300
    )
    assert ran.stdout.splitlines() == [f"ok {name}" for name in CHECKS], ran.stdout + ran.stderr[-6000:]
