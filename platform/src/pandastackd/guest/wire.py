"""Between this room's words and the guest's JSON: what is asked, and a strict reading of what is answered."""

from __future__ import annotations

import base64
import re
import signal
import time
from datetime import UTC, datetime
from typing import Literal

from pandastackd.guest.connect_protocol import (
    Json,
    decode_bytes,
    encode_bytes,
    integer,
    table,
    text,
    texts,
)
from pandastackd.guest.faults import clean, nonsense
from pandastackd.guest.types import (
    Command,
    Ended,
    Event,
    FileInfo,
    Identity,
    LogLine,
    Output,
    ProcessInfo,
    Started,
    Usage,
)

MAX_PID = 2**31 - 1
_KNOWN_SIGNALS = frozenset(signal.Signals)
_SIGNAL_WORDS: dict[str, int] = {
    "hangup": signal.SIGHUP,
    "interrupt": signal.SIGINT,
    "quit": signal.SIGQUIT,
    "illegal instruction": signal.SIGILL,
    "trace/breakpoint trap": signal.SIGTRAP,
    "aborted": signal.SIGABRT,
    "bus error": signal.SIGBUS,
    "floating point exception": signal.SIGFPE,
    "killed": signal.SIGKILL,
    "user defined signal 1": signal.SIGUSR1,
    "segmentation fault": signal.SIGSEGV,
    "user defined signal 2": signal.SIGUSR2,
    "broken pipe": signal.SIGPIPE,
    "alarm clock": signal.SIGALRM,
    "terminated": signal.SIGTERM,
}


def init_message(identity: Identity) -> Json:
    """The body of ``/init``; reads the wall clock now."""
    message: Json = {
        "hostname": identity.hostname,
        "machineId": identity.machine_id,
        "entropy": None if identity.entropy is None else encode_bytes(identity.entropy),
        "envVars": dict(identity.env) or None,
        "accessToken": identity.access_token,
        "defaultUser": identity.default_user,
        "resetConnections": identity.reset_connections,
        "timestamp": time.time_ns(),
    }
    return {name: value for name, value in message.items() if value is not None}


def user_header(user: str | None) -> dict[bytes, bytes]:
    """The header that names who a request acts as; nothing for the sandbox's default user."""
    if user is None:
        return {}
    return {b"Authorization": b"Basic " + base64.b64encode(f"{user}:".encode())}


def start_message(command: Command) -> Json:
    """The body of ``process.Process/Start``."""
    process: Json = {"cmd": command.args[0], "args": list(command.args[1:]), "envs": dict(command.env)}
    if command.cwd is not None:
        process["cwd"] = command.cwd
    message: Json = {"process": process, "stdin": command.stdin}
    if command.tag is not None:
        message["tag"] = command.tag
    if command.pty is not None:
        message["pty"] = {"size": {"cols": command.pty[0], "rows": command.pty[1]}}
    return message


def selector(pid_or_tag: int | str) -> Json:
    """Names a process by pid or by tag."""
    return {"pid": pid_or_tag} if isinstance(pid_or_tag, int) else {"tag": pid_or_tag}


def read_event(message: Json) -> Event | None:
    """One message of a process stream; ``None`` for a keep-alive or an event of a later protocol."""
    event = table(message, "event")
    if "start" in event:
        return Started(integer(table(event, "start"), "pid", low=1, high=MAX_PID))
    if "data" in event:
        return _read_output(table(event, "data"))
    if "end" in event:
        return _read_end(table(event, "end"))
    return None


def _read_output(data: Json) -> Output | None:
    streams: tuple[Literal["stdout", "stderr", "pty"], ...] = ("stdout", "stderr", "pty")
    for stream in streams:
        if stream in data:
            return Output(stream, decode_bytes(data[stream]))
    return None


def _read_end(end: Json) -> Ended:
    code = integer(end, "exitCode", low=-1, high=255)
    status = text(end, "status")
    if status.startswith("signal: "):
        number = _signal_number(status.removeprefix("signal: ").removesuffix(" (core dumped)"))
        return Ended(128 + number, signal.Signals(number).name if number in _KNOWN_SIGNALS else None)
    if code >= 0:
        return Ended(code)
    return Ended(code, error=clean(text(end, "error") or status) or "it did not start")


def _signal_number(words: str) -> int:
    """The signal that envd's words name, which are those of Go: "killed", or "signal 34" where there is no word."""
    if words in _SIGNAL_WORDS:
        return _SIGNAL_WORDS[words]
    digits = words.removeprefix("signal ")
    if digits.isascii() and digits.isdigit() and len(digits) <= 2 and 1 <= int(digits) <= 64:
        return int(digits)
    raise nonsense("a signal that has no such name")


def read_process(row: Json) -> ProcessInfo:
    """One row of ``process.Process/List``."""
    config = table(row, "config")
    env = table(config, "envs")
    if not all(isinstance(value, str) for value in env.values()):
        raise nonsense("an environment value is not a string")
    return ProcessInfo(
        pid=integer(row, "pid", low=1, high=MAX_PID),
        args=(text(config, "cmd"), *texts(config, "args")),
        cwd=text(config, "cwd") or None,
        env=env,
        tag=text(row, "tag") or None,
    )


def read_file_info(entry: Json) -> FileInfo:
    """One ``EntryInfo``. Its path is text to show or to send back, never a path on this host."""
    return FileInfo(
        name=text(entry, "name"),
        path=text(entry, "path"),
        is_dir=text(entry, "type") in {"FILE_TYPE_DIRECTORY", "dir"},
        size=integer(entry, "size"),
        mode=integer(entry, "mode", high=2**32 - 1) & 0o7777,
        mtime=read_time(text(entry, "modifiedTime")),
        owner=text(entry, "owner"),
        group=text(entry, "group"),
        symlink_target=text(entry, "symlinkTarget") or None,
    )


def read_time(stamp: str) -> float:
    """RFC 3339 as seconds since the epoch; empty is 0."""
    if not stamp:
        return 0.0
    try:
        moment = datetime.fromisoformat(re.sub(r"\.(\d{6})\d+", r".\1", stamp))
    except ValueError:
        raise nonsense("a time that is not RFC 3339") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def read_usage(message: Json) -> Usage:
    """The answer of ``/metrics``."""
    percent = message.get("cpu_used_pct", 0.0)
    if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 <= percent <= 100:
        raise nonsense("field cpu_used_pct is not a share")
    return Usage(
        # A time that a calendar knows: it is shown as a date.
        time=integer(message, "ts", high=2**35),
        cpu_count=integer(message, "cpu_count", high=2**16),
        cpu_used_percent=round(float(percent), 2),
        memory_used=integer(message, "mem_used"),
        memory_total=integer(message, "mem_total"),
        memory_cache=integer(message, "mem_cache"),
        disk_used=integer(message, "disk_used"),
        disk_total=integer(message, "disk_total"),
    )


def read_log_line(message: Json) -> LogLine | None:
    """One line of ``/logs``; ``None`` for a keep-alive."""
    stream = text(message, "stream")
    if stream in {"stdout", "pty"}:
        return LogLine("stdout", text(message, "line"), read_time(text(message, "time")))
    if stream == "stderr":
        return LogLine("stderr", text(message, "line"), read_time(text(message, "time")))
    return None
