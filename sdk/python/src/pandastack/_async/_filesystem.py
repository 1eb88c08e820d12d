"""Files of one sandbox. Bytes are exact; the stream variants never hold more than a chunk in memory."""

from __future__ import annotations

import builtins
import os
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from contextlib import aclosing
from pathlib import Path
from typing import BinaryIO

from pandastack import _wire, errors
from pandastack._async._http import AsyncHttp
from pandastack._async._runtime import as_chunks, in_thread
from pandastack._files import AtomicFile, local_target
from pandastack._models import FileInfo, WriteResult
from pandastack._wire import Call

Progress = Callable[[int], object]


class AsyncSandboxFilesystem:
    """The guest's files. Paths are absolute; parents of a written file are made."""

    def __init__(self, http: AsyncHttp, sandbox_id: str) -> None:
        self._http = http
        self._route = _wire.path("sandboxes", sandbox_id, "fs")

    async def read(self, path: str) -> bytes:
        """The content of a file.

        Raises:
            NotFoundError: there is no such file.
        """
        async with aclosing(self.read_stream(path)) as chunks:
            return b"".join([chunk async for chunk in chunks])

    async def read_text(self, path: str, encoding: str = "utf-8") -> str:
        """The content of a file as text."""
        return (await self.read(path)).decode(encoding)

    async def read_stream(self, path: str) -> AsyncGenerator[bytes, None]:
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
        async with self._http.stream(call) as pieces:
            async for piece in pieces:
                yield piece

    async def write(self, path: str, content: bytes | str) -> WriteResult:
        """Make or replace a file. Text is written as UTF-8."""
        return await self._put(path, content.encode() if isinstance(content, str) else bytes(content))

    async def write_stream(
        self, path: str, chunks: AsyncIterable[bytes] | Iterable[bytes], *, size: int | None = None
    ) -> WriteResult:
        """Make or replace a file from a stream; say its ``size`` in bytes if it is known."""
        return await self._put(path, as_chunks(chunks), size)

    async def upload(
        self,
        local_path: str | os.PathLike[str],
        remote_path: str,
        *,
        on_progress: Progress | None = None,
    ) -> WriteResult:
        """Copy a local file into the sandbox. ``on_progress`` is told the bytes sent so far."""
        with await in_thread(_open, Path(local_path)) as file:
            size = os.fstat(file.fileno()).st_size
            return await self._put(remote_path, _file_chunks(file, size, on_progress), size)

    async def download(
        self,
        remote_path: str,
        local_path: str | os.PathLike[str],
        *,
        on_progress: Progress | None = None,
    ) -> None:
        """Copy a file out of the sandbox. The local file appears when it is whole, or not at all."""
        received = 0
        async with aclosing(self.read_stream(remote_path)) as chunks:
            target: AtomicFile | None = None
            try:
                async for chunk in chunks:
                    target = target or AtomicFile(local_target(remote_path, local_path))
                    await in_thread(target.write, chunk)
                    received += len(chunk)
                    if on_progress is not None:
                        on_progress(received)
                target = target or AtomicFile(local_target(remote_path, local_path))
                await in_thread(target.commit)
            finally:
                if target is not None:
                    target.discard()

    async def listdir(self, path: str = "/") -> builtins.list[FileInfo]:
        """The entries of a directory."""
        call = Call("GET", f"{self._route}/dir", params={"path": path})
        parent = path.rstrip("/")
        return [
            FileInfo.from_dict(entry, path=f"{parent}/{entry.get('name', '')}")
            for entry in _wire.items(await self._http.request(call), "entries")
        ]

    async def stat(self, path: str) -> FileInfo:
        """What a path is.

        Raises:
            NotFoundError: there is nothing.
        """
        call = Call("GET", f"{self._route}/stat", params={"path": path})
        return FileInfo.from_dict(_wire.mapping(await self._http.request(call)), path=path)

    async def exists(self, path: str) -> bool:
        """Whether there is anything at a path."""
        try:
            await self.stat(path)
        except errors.NotFoundError:
            return False
        return True

    async def remove(self, path: str) -> None:
        """Delete a file or directory.

        Raises:
            NotFoundError: there is nothing.
        """
        await self._http.request(Call("DELETE", self._route, params={"path": path}))

    async def walk(
        self, path: str = "/"
    ) -> AsyncGenerator[tuple[str, builtins.list[FileInfo], builtins.list[FileInfo]], None]:
        """Every directory below a path, parents first: its path, its directories, its files.

        As with ``os.walk``, directories removed from the list before the next step are not entered.
        """
        waiting = [path]
        while waiting:
            here = waiting.pop()
            entries = await self.listdir(here)
            directories = [entry for entry in entries if entry.is_dir]
            yield here, directories, [entry for entry in entries if not entry.is_dir]
            waiting += [directory.path for directory in reversed(directories)]

    async def _put(
        self, path: str, content: AsyncIterable[bytes] | bytes, size: int | None = None
    ) -> WriteResult:
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
        return WriteResult.from_dict(_wire.mapping(await self._http.upload(call, content)))


def _open(path: Path) -> BinaryIO:
    return path.open("rb")


async def _file_chunks(
    file: BinaryIO, size: int, on_progress: Progress | None
) -> AsyncGenerator[bytes, None]:
    # No more than was announced, though the file may be growing.
    sent = 0
    while sent < size and (chunk := await in_thread(file.read, min(_wire.CHUNK_BYTES, size - sent))):
        yield chunk
        sent += len(chunk)
        if on_progress is not None:
            on_progress(sent)
