"""Options that several methods take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict


class ProcessOptions(TypedDict, total=False):
    """Where, with what and as whom something runs.

    Attributes:
        cwd: the folder it runs in; the user's home by default.
        env: added to the sandbox's environment, for this alone.
        user: who runs it; the sandbox's default user by default.
    """

    cwd: str | None
    env: Mapping[str, str] | None
    user: str | None


class ExecOptions(ProcessOptions, total=False):
    """How a command runs, beside its time.

    Attributes:
        stdin: what it reads, up to about a megabyte; without, its stdin is empty. To talk to it while it runs, see
            ``Sandbox.open_process``.
    """

    stdin: str | None
