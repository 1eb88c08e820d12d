"""Sizes, counts and clients that vanish: the right result, flat memory in server and agent, and nothing left behind.

Needs root, QEMU and the templates; one sandbox for all.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from pandastack import ExecOutput, Sandbox
from pandastackd.child_server import ChildServer
from pandastackd.control.keys import AccessTokens

from .conftest import peak_memory_kib
from .test_exec import alive, eventually

MIB = 1 << 20
FLAT_SERVER_KIB = 64 * 1024
FLAT_AGENT_KIB = 24 * 1024
BORDER = 1 << 32
STRANGE = "ünïcødé 日本語 🐼\r\nsecond\0third\r\n"


class Envd:
    """The sandbox's agent as E2B's clients reach it: through the gateway."""

    def __init__(self, server: ChildServer, sandbox: Sandbox) -> None:
        token = AccessTokens.from_file(server.data_dir / "secret.key").of(sandbox.id)
        self.http = httpx.Client(
            base_url=server.url,
            timeout=120,
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
            headers={
                "E2b-Sandbox-Id": sandbox.id,
                "E2b-Sandbox-Port": "49983",
                "X-Access-Token": token,
            },
        )

    def call(self, method: str, message: dict[str, Any]) -> dict[str, Any]:
        """A unary call that must succeed."""
        answer = self.http.post(f"/{method}", json=message)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def frames(self, method: str, message: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The messages of a server stream; closing it early drops the connection."""
        body = json.dumps(message).encode()
        headers = {"Content-Type": "application/connect+json"}
        content = struct.pack(">BI", 0, len(body)) + body
        with self.http.stream("POST", f"/{method}", content=content, headers=headers) as answer:
            held = b""
            for piece in answer.iter_bytes():
                held += piece
                while len(held) >= 5 and len(held) >= 5 + (size := struct.unpack(">I", held[1:5])[0]):
                    yield json.loads(held[5 : 5 + size])
                    held = held[5 + size :]


@pytest.fixture(scope="module")
def envd(server: ChildServer, shared_sandbox: Sandbox) -> Iterator[Envd]:
    envd = Envd(server, shared_sandbox)
    yield envd
    envd.http.close()


def agent_peak_kib(sandbox: Sandbox) -> int:
    """The most memory that the guest agent has had resident so far."""
    return int(
        sandbox.exec("awk '/VmHWM/{print $2}' /proc/$(pgrep -ox guest-agent)/status", check=True).stdout
    )


def agent_holds(sandbox: Sandbox) -> int:
    """Descriptors that the guest agent has open; the asking itself counts the same every time."""
    return int(sandbox.exec("sudo ls /proc/$(pgrep -ox guest-agent)/fd | wc -l", check=True).stdout)


def server_holds(server: ChildServer) -> int:
    """Descriptors that the server has open."""
    return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))


def output_of(message: dict[str, Any]) -> bytes:
    """The bytes of output in one message."""
    data = message.get("event", {}).get("data", {})
    return b"".join(base64.b64decode(text) for text in data.values())


def test_strange_text_survives_stdin_output_and_files(shared_sandbox: Sandbox, envd: Envd) -> None:
    shared_sandbox.filesystem.write("/tmp/strange", STRANGE.encode())
    assert shared_sandbox.filesystem.read("/tmp/strange") == STRANGE.encode()
    assert shared_sandbox.exec("cat /tmp/strange", check=True).stdout == STRANGE
    stream = envd.frames("process.Process/Start", {"process": {"cmd": "cat"}, "stdin": True})
    process = {"pid": next(stream)["event"]["start"]["pid"]}
    text = base64.b64encode(STRANGE.encode()).decode()
    envd.call("process.Process/SendInput", {"process": process, "input": {"stdin": text}})
    envd.call("process.Process/CloseStdin", {"process": process})
    assert b"".join(map(output_of, stream)) == STRANGE.encode()


def test_a_hundred_megabytes_of_output(server: ChildServer, shared_sandbox: Sandbox) -> None:
    before = (peak_memory_kib(server.pid), agent_peak_kib(shared_sandbox))
    size = sum(
        len(event.data)
        for event in shared_sandbox.exec_events(
            "head -c 100000000 /dev/zero | tr '\\0' x", timeout_seconds=250
        )
        if isinstance(event, ExecOutput)
    )
    assert size == 100_000_000
    assert peak_memory_kib(server.pid) - before[0] < FLAT_SERVER_KIB
    assert agent_peak_kib(shared_sandbox) - before[1] < FLAT_AGENT_KIB


def test_ten_thousand_files_in_a_folder(shared_sandbox: Sandbox, envd: Envd) -> None:
    shared_sandbox.exec(
        "mkdir -p /tmp/many && cd /tmp/many && seq -f 'file %05g é' 10000 | xargs -d '\\n' touch", check=True
    )
    expected = {f"file {number:05d} é" for number in range(1, 10_001)}
    assert {entry.name for entry in shared_sandbox.filesystem.listdir("/tmp/many")} == expected
    listed = envd.call("filesystem.Filesystem/ListDir", {"path": "/tmp/many", "depth": 1})
    assert {entry["name"] for entry in listed["entries"]} == expected


def test_a_file_beyond_four_gib(shared_sandbox: Sandbox, envd: Envd) -> None:
    size = BORDER + 5
    shared_sandbox.exec(
        f"truncate -s {BORDER - 2} /home/user/vast && printf 'abcdefg' >> /home/user/vast", check=True
    )
    assert shared_sandbox.filesystem.stat("/home/user/vast").size == size
    where = {"path": "/home/user/vast"}
    assert envd.call("filesystem.Filesystem/Stat", where)["entry"]["size"] == str(size)
    for first, last, expected in ((BORDER - 3, BORDER + 1, b"\0abcd"), (BORDER, size - 1, b"cdefg")):
        part = envd.http.get("/files", params=where, headers={"Range": f"bytes={first}-{last}"})
        assert (part.status_code, part.content) == (206, expected)
        assert part.headers["content-range"] == f"bytes {first}-{last}/{size}"
    with envd.http.stream("GET", "/files", params=where) as whole:
        assert whole.headers["content-length"] == str(size)
        assert next(whole.iter_raw(MIB)) == bytes(MIB)


def test_two_hundred_processes_at_once(shared_sandbox: Sandbox, envd: Envd) -> None:
    def run(number: int) -> bytes:
        script = f"read x; echo {number}"
        stream = envd.frames(
            "process.Process/Start",
            {"process": {"cmd": "sh", "args": ["-c", script]}, "tag": f"many-{number}"},
        )
        next(stream)
        started.append(number)
        return b"".join(map(output_of, stream))

    started: list[int] = []
    with ThreadPoolExecutor(200) as pool:
        answers = [pool.submit(run, number) for number in range(200)]
        eventually(lambda: len(started) == 200, "all two hundred run")
        listed = envd.call("process.Process/List", {})["processes"]
        assert sum(str(process.get("tag", "")).startswith("many-") for process in listed) == 200
        for number in range(200):
            envd.call("process.Process/CloseStdin", {"process": {"tag": f"many-{number}"}})
        assert [answer.result() for answer in answers] == [b"%d\n" % number for number in range(200)]


def _vanish_in_an_upload(sandbox: Sandbox, envd: Envd) -> None:
    def body() -> Iterator[bytes]:
        yield bytes(MIB)
        raise ConnectionError("the client dies here")

    headers = {"Content-Type": "application/octet-stream"}
    with suppress(ConnectionError):
        envd.http.post("/files", params={"path": "/tmp/gone/half"}, content=body(), headers=headers)
    with suppress(ConnectionError):
        sandbox.filesystem.write_stream("/tmp/gone/half", body())


def _vanish_in_a_download(sandbox: Sandbox, envd: Envd) -> None:
    sandbox.exec("truncate -s 1G /tmp/holes", check=True)
    with envd.http.stream("GET", "/files", params={"path": "/tmp/holes"}) as answer:
        next(answer.iter_raw(MIB))
    next(iter(sandbox.filesystem.read_stream("/tmp/holes")))


def _vanish_in_a_command(sandbox: Sandbox, envd: Envd) -> None:
    events = sandbox.exec_events("setsid sleep 4441 & echo up; sleep 4442", timeout_seconds=600)
    next(events)
    events.close()  # type: ignore[attr-defined]


def _vanish_from_a_process(sandbox: Sandbox, envd: Envd) -> None:
    process = {"cmd": "bash", "args": ["-c", "seq 1000; exec sleep 5551"]}
    stream = envd.frames("process.Process/Start", {"process": process, "tag": "left"})
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    again = envd.frames("process.Process/Connect", {"process": {"tag": "left"}})
    next(again)
    again.close()  # type: ignore[attr-defined]


def test_clients_that_vanish_leave_nothing(server: ChildServer, shared_sandbox: Sandbox, envd: Envd) -> None:
    vanishing: list[Callable[[Sandbox, Envd], None]] = [
        _vanish_in_an_upload,
        _vanish_in_a_download,
        _vanish_in_a_command,
        _vanish_from_a_process,
    ]
    shared_sandbox.exec("mkdir -p /tmp/gone", check=True)
    before = (server_holds(server), agent_holds(shared_sandbox))
    for _ in range(3):
        for vanish in vanishing:
            vanish(shared_sandbox, envd)
        # A process that nobody follows goes on, as E2B's clients want; what it printed is there for who comes back.
        assert alive(shared_sandbox, "sleep 5551")
        expected = "".join(f"{number}\n" for number in range(1, 1001)).encode()
        seen = b""
        for message in envd.frames("process.Process/Connect", {"process": {"tag": "left"}, "offset": "0"}):
            seen += output_of(message)
            if len(seen) >= len(expected):
                break
        assert seen == expected
        kill = {"process": {"tag": "left"}, "signal": "SIGNAL_SIGKILL"}
        envd.call("process.Process/SendSignal", kill)
    eventually(lambda: not alive(shared_sandbox, "sleep 4441"), "a command's daemon dies with its caller")
    eventually(lambda: not alive(shared_sandbox, "sleep 4442"), "and so does the command")
    eventually(lambda: shared_sandbox.filesystem.listdir("/tmp/gone") == [], "no half upload is left")
    spare = 16  # connections that rest in pools
    eventually(lambda: server_holds(server) <= before[0] + spare, "the server lets go of what it held")
    eventually(lambda: agent_holds(shared_sandbox) <= before[1] + spare, "and so does the agent")
    assert shared_sandbox.exec("echo well", check=True).stdout == "well\n"
