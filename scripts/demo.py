"""The demo: start a server, restore a microVM, run untrusted code in it, show what each step took.

Uses the data directory of ``PANDASTACK_DATA_DIR`` (default ``/var/lib/pandastack``), so what it builds is there for the
server that you start next. Ends with ``demo: ok``; any failure is one line and exit code 1.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from pandastack import PandaStack, PandastackError

BUILD_DEADLINE_SECONDS = 1800.0
BIN = Path(sys.executable).parent


def main() -> int:
    """Run the demo; the process's exit code."""
    data_dir = Path(os.environ.get("PANDASTACK_DATA_DIR", "/var/lib/pandastack"))
    listen = f"127.0.0.1:{free_port()}"
    print(
        f"==> starting pandastackd on {listen} with {data_dir} (the first start builds the templates)",
        flush=True,
    )
    server = subprocess.Popen([BIN / "pandastackd", "serve", "--data-dir", data_dir, "--listen", listen])
    try:
        wait_until_ready(server, f"http://{listen}")
        run(PandaStack(token=(data_dir / "admin.key").read_text().strip(), base_url=f"http://{listen}"))
    except (DemoFailed, PandastackError, OSError) as failure:
        print(f"demo: failed: {failure}", file=sys.stderr)
        return 1
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)
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


def wait_until_ready(server: subprocess.Popen[bytes], url: str) -> None:
    """Return when the server answers; it prints its own progress meanwhile."""
    deadline = time.monotonic() + BUILD_DEADLINE_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise DemoFailed(f"the server ended with exit code {server.returncode}; its last lines say why")
        try:
            if httpx.get(f"{url}/healthz", timeout=2).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise DemoFailed(f"the server was not ready within {BUILD_DEADLINE_SECONDS:.0f} s")


def free_port() -> int:
    """A TCP port that is free on loopback now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
