"""The ``pandastack`` command. What it says is made by Typer; what it does is done by the SDK."""

from __future__ import annotations

import sys


def main() -> None:
    """The entry point; leaves with the exit status."""
    if sys.argv[1:] in (["--version"], ["version"]):  # answered before anything slow is imported
        from pandastack._version import __version__

        sys.stdout.write(f"pandastack {__version__}\n")
        return
    from pandastack.cli.app import app

    app()
