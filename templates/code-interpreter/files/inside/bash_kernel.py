"""A Jupyter kernel of bash: one shell that lives on, whose output and errors arrive apart and as they come.

The shell is an interactive one without a terminal, because only such a shell survives an interrupt and drops the
whole cell at it. It evaluates each cell from a file, and says on a pipe of its own that it is done and how. An
interrupt reaches it as it does in a terminal: kernel, shell and what the shell runs are one process group.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import selectors
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel

PIECE = 64 * 1024
POLL_SECONDS = 1.0

SHELL = ("/bin/bash", "--norc", "--noprofile", "--noediting", "-i")


class Shell:
    """The shell and the pipes to it."""

    def __init__(self, folder: Path) -> None:
        self._cell = folder / "cell"
        done, say_done = os.pipe()
        self._process = subprocess.Popen(
            SHELL,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(say_done,),
            env={**os.environ, "PS1": "", "PS2": "", "PAGER": "cat"},
            # The kernel itself ignores interrupts between cells; what the shell runs must not.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        os.close(say_done)
        self._done = os.fdopen(done, "rb", buffering=0)
        self._say_done = say_done
        self._pipes = {"stdout": self._process.stdout, "stderr": self._process.stderr}
        self._decoders = {name: codecs.getincrementaldecoder("utf-8")("replace") for name in self._pipes}
        self._selector = selectors.DefaultSelector()
        for name, pipe in (*self._pipes.items(), ("done", self._done)):
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe, selectors.EVENT_READ, name)
        self.run("set +o history; unset PS1 PS2", lambda _name, _text: None)

    def run(self, code: str, say: Any) -> int | None:
        """Evaluates ``code``, hands what it prints to ``say``; its exit status, or None when the shell ended."""
        self._cell.write_text(code)
        steps = (
            f'eval "$(<{self._cell})" </dev/null {self._say_done}>&-\nprintf "%d\\n" $? >&{self._say_done}\n'
        )
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(steps.encode())
            self._process.stdin.flush()
        while True:
            told = self._take(say)
            if told is not None:
                self._drain(say)
                return int(told) if told.strip() else None
            if self._process.poll() is not None:
                self._drain(say)
                return None

    def close(self) -> int:
        """Ends the shell; its exit status."""
        self._process.kill()
        status = self._process.wait()
        self._selector.close()
        for pipe in (self._process.stdin, *self._pipes.values(), self._done):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        return status

    def _take(self, say: Any) -> bytes | None:
        told = None
        for key, _ in self._selector.select(POLL_SECONDS):
            data = os.read(key.fd, PIECE)
            if key.data == "done":
                told = data
            elif data:
                self._say(key.data, data, say)
            else:
                self._selector.unregister(key.fileobj)
        return told

    def _drain(self, say: Any) -> None:
        """What was printed before the end was told is in the pipes by now."""
        for name, pipe in self._pipes.items():
            with contextlib.suppress(BlockingIOError):
                while data := os.read(pipe.fileno(), PIECE):
                    self._say(name, data, say)

    def _say(self, name: str, data: bytes, say: Any) -> None:
        if text := self._decoders[name].decode(data):
            say(name, text)


class BashKernel(Kernel):
    """The kernel."""

    implementation = "pandastack-bash"
    implementation_version = "1"
    language_info = {"name": "bash", "mimetype": "text/x-sh", "file_extension": ".sh"}  # noqa: RUF012
    banner = "bash"

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._folder = tempfile.TemporaryDirectory(prefix="bash-")
        self._shell = Shell(Path(self._folder.name))

    def do_execute(
        self,
        code: str,
        silent: bool,
        store_history: bool = True,
        user_expressions: Any = None,
        allow_stdin: bool = False,
        **_: Any,
    ) -> dict[str, Any]:
        """Runs a cell."""

        def say(name: str, text: str) -> None:
            if not silent:
                self.send_response(self.iopub_socket, "stream", {"name": name, "text": text})

        # The interrupt reaches the shell by itself, and the kernel has nothing to do about it.
        before = signal.signal(signal.SIGINT, lambda *_: None)
        try:
            status = self._shell.run(code, say)
        finally:
            signal.signal(signal.SIGINT, before)
        if status is None:
            status = self._shell.close()
            self._shell = Shell(Path(self._folder.name))
            say("stderr", f"the shell ended with status {status}; a fresh one is in its place\n")
        if not status:
            return {
                "status": "ok",
                "execution_count": self.execution_count,
                "payload": [],
                "user_expressions": {},
            }
        error = {"ename": "ExitStatus", "evalue": str(status), "traceback": []}
        self.send_response(self.iopub_socket, "error", error)
        return {"status": "error", "execution_count": self.execution_count, **error}

    def do_shutdown(self, restart: bool) -> dict[str, Any]:
        """Ends the shell."""
        self._shell.close()
        self._folder.cleanup()
        return {"status": "ok", "restart": restart}


if __name__ == "__main__":
    IPKernelApp.launch_instance(kernel_class=BashKernel)
