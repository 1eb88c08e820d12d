"""A code interpreter without kernels: contexts are names, and a cell does what its code, a JSON list of events, says.

An event that is a number is a pause of so many seconds; one that is a text is sent as it is.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any


class FakeInterpreter:
    """What a guest serves on port 49999.

    Attributes:
        port: where it listens on this machine.
        contexts: by id, language and folder of each.
        asked: the bodies of all cells.
        abandoned: cells whose caller went away.
    """

    def __init__(self) -> None:
        self.port = 0
        self.contexts: dict[str, dict[str, str]] = {}
        self.asked: list[dict[str, Any]] = []
        self.abandoned = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one request."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = json.loads(await reader.readexactly(int(headers.get("content-length", "0"))) or b"{}")
        method, path, _ = first.split(" ")
        try:
            match method, path.strip("/").split("/"):
                case "GET", ["contexts"]:
                    await _reply(writer, 200, list(self.contexts.values()))
                case "POST", ["contexts"] if body.get("language") == "cobol":
                    await _reply(writer, 400, {"code": 400, "message": "language cobol is not supported"})
                case "POST", ["contexts"]:
                    made = {
                        "id": f"c{len(self.contexts)}",
                        "language": body.get("language", "python"),
                        "cwd": "/h",
                    }
                    self.contexts[made["id"]] = made
                    await _reply(writer, 201, made)
                case "POST", ["contexts", identity, "restart"] if identity in self.contexts:
                    await _reply(writer, 204, None)
                case "DELETE", ["contexts", identity] if identity in self.contexts:
                    del self.contexts[identity]
                    await _reply(writer, 204, None)
                case "POST", ["execute"] if body["context_id"] in self.contexts:
                    self.asked.append(body)
                    await self._cell(reader, writer, json.loads(body["code"]))
                case _:
                    await _reply(writer, 404, {"code": 404, "message": "context does not exist"})
        except ConnectionError:
            self.abandoned += 1
        finally:
            writer.close()

    async def _cell(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, events: list[Any]
    ) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for event in events:
            if isinstance(event, int | float):
                gone = asyncio.create_task(reader.read())
                await asyncio.wait({gone}, timeout=event)
                if gone.done():
                    raise ConnectionError
                gone.cancel()
                continue
            line = event if isinstance(event, str) else json.dumps(event) + "\n"
            writer.write(b"%x\r\n%s\r\n" % (len(line.encode()), line.encode()))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()


async def _reply(writer: asyncio.StreamWriter, status: int, content: Any) -> None:
    body = b"" if content is None else json.dumps(content).encode()
    writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()


@asynccontextmanager
async def fake_interpreter() -> AsyncIterator[FakeInterpreter]:
    """One that listens on the loopback."""
    fake = FakeInterpreter()
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    fake.port = server.sockets[0].getsockname()[1]
    async with server:
        yield fake
