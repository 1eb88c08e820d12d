"""Files in a sandbox, streamed both ways in flat memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from pandastackd.api.dependencies import Caller, ControlDep
from pandastackd.api.streaming import Pump, Streamed
from pandastackd.api.wire import FileEntry, Listing, Written
from pandastackd.control import Control, Principal
from pandastackd.errors import InvalidRequest
from pandastackd.guest.types import FileInfo

router = APIRouter(prefix="/sandboxes/{sandbox_id}/fs", tags=["fs"])

MAX_PATH = 4096

GuestPath = Annotated[str, Query(description="absolute, or relative to the user's home; no '..'")]

_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


@router.get(
    "",
    response_class=Response,
    responses={200: {"content": _BYTES, "description": "The file's bytes"}},
)
async def read_file(sandbox_id: str, path: GuestPath, control: ControlDep, caller: Caller) -> Response:
    """Download a file."""
    source = _Download()
    pump = await Pump.open(source.pieces(control, caller, sandbox_id, checked_path(path)))
    return Streamed(pump, media_type="application/octet-stream", size=source.size)


@router.put("", openapi_extra={"requestBody": {"required": True, "content": _BYTES}})
async def write_file(
    sandbox_id: str, path: GuestPath, request: Request, control: ControlDep, caller: Caller
) -> Written:
    """Upload a file; the folders above it are made. The body is the file's bytes, of any size."""
    where = checked_path(path)
    async with control.sandboxes.use(caller, sandbox_id) as guest:
        written = await guest.write(where, request.stream())
    return Written(path=path, bytes=written.size)


@router.delete("", status_code=204)
async def delete_file(sandbox_id: str, path: GuestPath, control: ControlDep, caller: Caller) -> Response:
    """Remove a file, or a folder with everything in it; 404 when nothing is there."""
    where = checked_path(path)
    if not where.strip("/."):
        raise InvalidRequest(f"{path!r} cannot be removed; name a file or folder in it", code="invalid_path")
    async with control.sandboxes.use(caller, sandbox_id) as guest:
        await guest.remove(where)
    return Response(status_code=204)


@router.get("/dir", response_model=Listing)
async def list_folder(sandbox_id: str, path: GuestPath, control: ControlDep, caller: Caller) -> Response:
    """What is in a folder."""
    where = checked_path(path)
    async with control.sandboxes.use(caller, sandbox_id) as guest:
        entries = await guest.list_dir(where)
    # Not through the models: a folder may have ten thousand entries.
    return JSONResponse({"path": path, "entries": [file_entry(entry) for entry in entries]})


@router.get("/stat", response_model=FileEntry)
async def stat_file(sandbox_id: str, path: GuestPath, control: ControlDep, caller: Caller) -> Response:
    """What is at a path; 404 when nothing is."""
    where = checked_path(path)
    async with control.sandboxes.use(caller, sandbox_id) as guest:
        return JSONResponse(file_entry(await guest.stat(where)))


class _Download:
    """A file on its way; ``size`` is known once the first piece is there."""

    size: int | None = None

    async def pieces(
        self, control: Control, caller: Principal, sandbox_id: str, path: str
    ) -> AsyncGenerator[bytes]:
        async with control.sandboxes.use(caller, sandbox_id) as guest, guest.read(path) as file:
            self.size = file.size
            yield b""
            async for chunk in file.chunks:
                yield chunk


def checked_path(path: str) -> str:
    """``path`` as it may be shown to the guest.

    Raises:
        InvalidRequest: it is empty, too long, or holds ``..`` or NUL.
    """
    if not path:
        raise InvalidRequest("path is empty; name a file or folder", code="invalid_path")
    if "\0" in path:
        raise InvalidRequest("path holds a NUL character, which no file name can", code="invalid_path")
    if ".." in path.split("/"):
        raise InvalidRequest("path holds '..'; write the path without going up", code="invalid_path")
    if len(path.encode("utf-8", "replace")) > MAX_PATH:
        raise InvalidRequest(f"path is too long: at most {MAX_PATH} bytes", code="invalid_path")
    return path


def file_entry(info: FileInfo) -> dict[str, str | int | bool]:
    """A file or folder as the contract shows it."""
    return {
        "name": info.name,
        "is_dir": info.is_dir,
        "size": info.size,
        "mode": f"{info.mode & 0o7777:04o}",
        "mtime": int(info.mtime),
    }
