"""What the sandbox itself knows and kernels that were started before it was made do not: its environment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from interpreter.context import machine_id

TOLD = Path("/run/sandbox-env.json")
"""Written by the guest's agent before the machine id, whenever the machine becomes another one."""


class SandboxEnv:
    """The environment that the sandbox was created with, read once in each machine."""

    def __init__(self) -> None:
        self._machine_id = machine_id()
        self._known: dict[str, str] = {}

    def read(self) -> Mapping[str, str]:
        """The variables; none where nothing was told."""
        present = machine_id()
        if present != self._machine_id:
            try:
                self._known = json.loads(TOLD.read_text())
            except (OSError, ValueError):
                self._known = {}
            self._machine_id = present
        return self._known
