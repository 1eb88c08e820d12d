"""``pandastackd serve`` as a child process, for whoever needs a whole platform for a while: demo, bench, tests.

The server keeps its address over restarts, so that a client made before a crash goes on after it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import httpx

from pandastackd.errors import HostFailure

READY_SECONDS = 1800.0
"""A first start builds the templates."""

STOP_SECONDS = 60.0


class ChildServer:
    """One data directory, and the server process that works on it. As a context manager it runs in the block.

    Args:
        data_dir: where the server keeps everything.
        output: where it prints; default: where we print.
        env: added to our environment for every start from now on; may be changed between starts.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        output: IO[bytes] | IO[str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.env = dict(env or {})
        self._output = output
        self._listen = f"127.0.0.1:{_free_port()}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Base URL of its API."""
        return f"http://{self._listen}"

    @property
    def admin_key(self) -> str:
        """The key that the first start made."""
        return (self.data_dir / "admin.key").read_text().strip()

    @property
    def pid(self) -> int:
        """Process id of the server that was started last."""
        return self._started().pid

    def start(self) -> None:
        """Start the server and return when it answers.

        Raises:
            HostFailure: it ended, or did not answer in time; its own last lines say why.
        """
        program = Path(sys.executable).with_name("pandastackd")
        self._process = subprocess.Popen(
            [program, "serve", "--data-dir", self.data_dir, "--listen", self._listen],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            env={**os.environ, **self.env},
        )
        deadline = time.monotonic() + READY_SECONDS
        pause = 0.05
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise HostFailure(
                    f"the server ended with exit code {self._process.returncode}; its last lines say why"
                )
            try:
                if httpx.get(f"{self.url}/healthz", timeout=2, trust_env=False).is_success:
                    return
            except httpx.TransportError:
                time.sleep(pause)
                # One that bakes takes minutes, and needs the processor more than we do.
                pause = min(1.5 * pause, 1.0)
        self.kill()
        raise HostFailure(
            f"the server was not ready within {READY_SECONDS:.0f} s; its last lines say what it was doing"
        )

    def stop(self) -> None:
        """End the server in order; sandboxes go on running. No effect when none runs.

        Raises:
            HostFailure: it did not end in time, and was killed.
        """
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise HostFailure(
                f"the server did not end within {STOP_SECONDS:.0f} s of SIGTERM; killed it"
            ) from None

    def kill(self) -> None:
        """End the server as a crash would."""
        self._started().kill()
        self._started().wait()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise HostFailure("the server was not started")
        return self._process


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
