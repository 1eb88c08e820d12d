# Generated from _async/_filesystem.py by scripts/generate_sync.py; do not edit.
"""Files of one sandbox. Bytes are exact; the stream variants never hold more than a chunk in memory."""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from pandastack import _wire, errors
from pandastack._files import AtomicFile, local_target
from pandastack._models import FileInfo, WriteResult
from pandastack._sync._http import Http
from pandastack._sync._runtime import as_chunks, in_thread
from pandastack._wire import Call

Progress = Callable[[int], object]


class SandboxFilesystem:
    """The guest's files. Paths are absolute; parents of a written file are made."""

    def __init__(self, http: Http, sandbox_id: str) -> None:
        self._http = http
        self._route = _wire.path("sandboxes", sandbox_id, "fs")

    def read(self, path: str) -> bytes:
        """The content of a file.

        Raises:
            NotFoundError: there is no such file.
        """
        with closing(self.read_stream(path)) as chunks:
            return b"".join(list(chunks))

    def read_text(self, path: str, encoding: str = "utf-8") -> str:
        """The content of a file as text."""
        return (self.read(path)).decode(encoding)

    def read_stream(self, path: str) -> Generator[bytes, None]:
        """The content of a file, piece by piece.

        Raises:
            NotFoundError: there is no such file.
            ConnectionError: the content broke off.
        """
        call = Call(
            "GET",
            self._route,
            params={"path": path},
            headers={"Accept": "application/octet-stream, application/json"},
            timeout_seconds=_wire.TRANSFER_TIMEOUT_SECONDS,
        )
        with self._http.stream(call) as pieces:
            yield from pieces

    def write(self, path: str, content: bytes | str) -> WriteResult:
        """Make or replace a file. Text is written as UTF-8."""
        return self._put(path, content.encode() if isinstance(content, str) else bytes(content))

    def write_stream(self, path: str, chunks: Iterable[bytes], *, size: int | None = None) -> WriteResult:
        """Make or replace a file from a stream; say its ``size`` in bytes if it is known."""
        return self._put(path, as_chunks(chunks), size)

    def upload(
        self,
        local_path: str | os.PathLike[str],
        remote_path: str,
        *,
        on_progress: Progress | None = None,
    ) -> WriteResult:
        """Copy a local file into the sandbox. ``on_progress`` is told the bytes sent so far."""
        with in_thread(_open, Path(local_path)) as file:
            size = os.fstat(file.fileno()).st_size
            return self._put(remote_path, _file_chunks(file, size, on_progress), size)

    def download(
        self,
        remote_path: str,
        local_path: str | os.PathLike[str],
        *,
        on_progress: Progress | None = None,
    ) -> None:
        """Copy a file out of the sandbox. The local file appears when it is whole, or not at all."""
        received = 0
        with closing(self.read_stream(remote_path)) as chunks:
            target: AtomicFile | None = None
            try:
                for chunk in chunks:
                    target = target or AtomicFile(local_target(remote_path, local_path))
                    in_thread(target.write, chunk)
                    received += len(chunk)
                    if on_progress is not None:
                        on_progress(received)
                target = target or AtomicFile(local_target(remote_path, local_path))
                in_thread(target.commit)
            finally:
                if target is not None:
                    target.discard()

    def listdir(self, path: str = "/") -> builtins.list[FileInfo]:
        """The entries of a directory."""
        call = Call("GET", f"{self._route}/dir", params={"path": path})
        parent = path.rstrip("/")
        return [
            FileInfo.from_dict(entry, path=f"{parent}/{entry.get('name', '')}")
            for entry in _wire.items(self._http.request(call), "entries")
        ]

    def stat(self, path: str) -> FileInfo:
        """What a path is.

        Raises:
            NotFoundError: there is nothing.
        """
        call = Call("GET", f"{self._route}/stat", params={"path": path})
        return FileInfo.from_dict(_wire.mapping(self._http.request(call)), path=path)

    def exists(self, path: str) -> bool:
        """Whether there is anything at a path."""
        try:
            self.stat(path)
        except errors.NotFoundError:
            return False
        return True

    def remove(self, path: str) -> None:
        """Delete a file or directory.

        Raises:
            NotFoundError: there is nothing.
        """
        self._http.request(Call("DELETE", self._route, params={"path": path}))

    def walk(
        self, path: str = "/"
    ) -> Generator[tuple[str, builtins.list[FileInfo], builtins.list[FileInfo]], None]:
        """Every directory below a path, parents first: its path, its directories, its files.

        As with ``os.walk``, directories removed from the list before the next step are not entered.
        """
        waiting = [path]
        while waiting:
            here = waiting.pop()
            entries = self.listdir(here)
            directories = [entry for entry in entries if entry.is_dir]
            yield here, directories, [entry for entry in entries if not entry.is_dir]
            waiting += [directory.path for directory in reversed(directories)]

    def _put(self, path: str, content: Iterable[bytes] | bytes, size: int | None = None) -> WriteResult:
        headers = {"Content-Type": "application/octet-stream"}
        if size is not None:
            headers["Content-Length"] = str(size)
        call = Call(
            "PUT",
            self._route,
            params={"path": path},
            headers=headers,
            timeout_seconds=_wire.TRANSFER_TIMEOUT_SECONDS,
        )
        return WriteResult.from_dict(_wire.mapping(self._http.upload(call, content)))


def _open(path: Path) -> BinaryIO:
    return path.open("rb")


def _file_chunks(file: BinaryIO, size: int, on_progress: Progress | None) -> Generator[bytes, None]:
    # No more than was announced, though the file may be growing.
    sent = 0
    while sent < size and (chunk := in_thread(file.read, min(_wire.CHUNK_BYTES, size - sent))):
        yield chunk
        sent += len(chunk)
        if on_progress is not None:
            on_progress(sent)
