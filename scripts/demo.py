"""The demo: start a server, restore a microVM, run untrusted code in it, show what each step took.

Uses the data directory of ``PANDASTACK_DATA_DIR`` (default ``/var/lib/pandastack``), so what it builds is there for the
server that you start next. Ends with ``demo: ok``; any failure is one line and exit code 1.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pandastack import PandaStack, PandastackError
from pandastackd.child_server import ChildServer
from pandastackd.errors import HostFailure


def main() -> int:
    """Run the demo; the process's exit code."""
    data_dir = Path(os.environ.get("PANDASTACK_DATA_DIR", "/var/lib/pandastack"))
    server = ChildServer(data_dir)
    print(
        f"==> starting pandastackd on {server.url} with {data_dir} (the first start builds the templates)",
        flush=True,
    )
    try:
        with server:
            run(PandaStack(token=server.admin_key, base_url=server.url))
    except (DemoFailed, PandastackError, HostFailure, OSError) as failure:
        print(f"demo: failed: {failure}", file=sys.stderr)
        return 1
    print("demo: ok")
    return 0


class DemoFailed(Exception):
    """Something that should have worked did not; the message says what."""


def run(client: PandaStack) -> None:
    """Create a sandbox, run code in it, and remove it."""
    print("==> creating a sandbox from the template code-interpreter", flush=True)
    with client.sandboxes.create(template="code-interpreter", ttl_seconds=600) as sandbox:
        for phase, milliseconds in sandbox.phases_ms.items():
            print(f"    {phase:<6} {milliseconds:8.1f} ms")
        command = "python -c 'print(2 ** 10)'"
        print(f"==> in the microVM: {command}", flush=True)
        result = sandbox.exec(command, timeout_seconds=60)
        print(result.stdout, end="")
        if result.stdout != "1024\n":
            raise DemoFailed(f"expected 1024, got {result.stdout!r} (stderr {result.stderr!r})")


if __name__ == "__main__":
    sys.exit(main())
