"""A Jupyter kernel of Java: the JDK's own JShell, driven through ``JavaShell.java``."""

from __future__ import annotations

import base64
import codecs
import contextlib
import io
import os
import signal
import subprocess
import threading
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel

SOURCE = Path(__file__).with_name("JavaShell.java")
POLL_SECONDS = 1.0
COMMAND = (
    *("/usr/bin/java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto", "-Xmx256m"),
    *("--add-modules", "jdk.jshell", str(SOURCE)),
)


class Ended(Exception):
    """JShell's process is gone."""


class Shell:
    """JShell's process and the pipes to it."""

    def __init__(self) -> None:
        # A session of its own: interrupts reach it as a message, and only so.
        self._process = subprocess.Popen(
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True
        )
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        for _ in self._until_done():
            pass

    def run(self, code: str) -> Any:
        """Runs a cell; yields a word and its texts for each thing that happens. Raises Ended."""
        self._send(b"run " + base64.b64encode(code.encode()))
        yield from self._until_done()

    def stop(self) -> None:
        """Stops the running cell."""
        with contextlib.suppress(Ended):
            self._send(b"stop")

    def close(self) -> None:
        """Ends the process; the one that runs the code ends with it."""
        self._process.kill()
        self._process.wait()

    def _until_done(self) -> Any:
        while True:
            try:
                line = self._lines.get(timeout=POLL_SECONDS)
            except Empty:
                # Only to let signals in.
                continue
            if line is None:
                raise Ended
            word, *texts = line.rstrip(b"\n").split(b" ")
            if word == b"done":
                return
            yield word.decode(), [base64.b64decode(text) for text in texts]

    def _read(self) -> None:
        for line in io.BufferedReader(self._process.stdout):
            self._lines.put(line)
        self._lines.put(None)

    def _send(self, line: bytes) -> None:
        left = memoryview(line + b"\n")
        try:
            while left:
                left = left[os.write(self._process.stdin.fileno(), left) :]
        except BrokenPipeError:
            raise Ended from None


class JavaKernel(Kernel):
    """The kernel."""

    implementation = "pandastack-java"
    implementation_version = "1"
    language_info = {"name": "java", "mimetype": "text/x-java", "file_extension": ".java"}  # noqa: RUF012
    banner = "JShell"

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._shell = Shell()

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
        failure: dict[str, Any] | None = None
        decoders = {name: codecs.getincrementaldecoder("utf-8")("replace") for name in ("stdout", "stderr")}
        before = signal.signal(signal.SIGINT, lambda *_: self._shell.stop())
        try:
            for word, texts in self._shell.run(code):
                if word == "error":
                    name, value, trace = (text.decode("utf-8", "replace") for text in texts)
                    failure = {"ename": name, "evalue": value, "traceback": trace.splitlines()}
                elif not silent:
                    self._tell(word, texts[0], decoders)
        except Ended:
            self._shell.close()
            self._shell = Shell()
            failure = {"ename": "Ended", "evalue": "Java ended; a fresh one is in its place", "traceback": []}
        finally:
            signal.signal(signal.SIGINT, before)
        count = {"execution_count": self.execution_count}
        if failure is None:
            return {"status": "ok", **count, "payload": [], "user_expressions": {}}
        self.send_response(self.iopub_socket, "error", failure)
        return {"status": "error", **count, **failure}

    def do_shutdown(self, restart: bool) -> dict[str, Any]:
        """Ends JShell."""
        self._shell.close()
        return {"status": "ok", "restart": restart}

    def _tell(self, word: str, data: bytes, decoders: dict[str, Any]) -> None:
        if word == "result":
            bundle = {"text/plain": data.decode("utf-8", "replace")}
            content = {"execution_count": self.execution_count, "data": bundle, "metadata": {}}
            self.send_response(self.iopub_socket, "execute_result", content)
        elif text := decoders[word].decode(data):
            self.send_response(self.iopub_socket, "stream", {"name": word, "text": text})


if __name__ == "__main__":
    IPKernelApp.launch_instance(kernel_class=JavaKernel)
