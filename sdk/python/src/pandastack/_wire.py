"""How a call looks on the wire and how an answer is read. Pure: the executors do the I/O."""

from __future__ import annotations

import base64
import binascii
import json
import platform
import shlex
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from pandastack import errors
from pandastack._models import (
    CellEvent,
    CellException,
    CellExit,
    CellOutput,
    ExecEvent,
    ExecExit,
    ExecOutput,
    Json,
    Result,
)
from pandastack._sse import SseEvent
from pandastack._version import __version__

USER_AGENT = f"pandastack-python/{__version__} python/{platform.python_version()}"
CHUNK_BYTES = 1024 * 1024
CREATE_TIMEOUT_SECONDS = 180.0
STATE_TIMEOUT_SECONDS = 300.0
TRANSFER_TIMEOUT_SECONDS = 300.0
EXEC_MARGIN_SECONDS = 30.0
MAX_INLINE_CODE_BYTES = 64 * 1024
Volumes = Sequence[Mapping[str, Any] | str]

_DEFAULT = -1.0  # "the client's own timeout", since None means "none at all"


@dataclass(frozen=True, slots=True)
class Call:
    """One request, before it is sent.

    Attributes:
        path: below ``/v1``, its segments already quoted.
        json: body to send as JSON; ``None`` sends no body.
        timeout_seconds: longest silence that is waited through; ``None`` waits for as long as the peer lives.
    """

    method: str
    path: str
    params: Mapping[str, str | list[str]] = field(default_factory=dict)
    json: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: float | None = _DEFAULT

    def silence(self, default_seconds: float) -> float | None:
        """The read timeout to use, given the client's own."""
        return default_seconds if self.timeout_seconds == _DEFAULT else self.timeout_seconds


def path(*segments: str) -> str:
    """A path of quoted segments.

    Raises:
        ValueError: a segment is empty or steps out, which would make the request mean something else.
    """
    for segment in segments:
        if not segment or segment in {".", ".."}:
            raise ValueError(f"{segment!r} is not an id or a name")
    return "".join("/" + quote(segment, safe="") for segment in segments)


def idempotency(key: str | None) -> dict[str, str]:
    """The header that makes a repeated create the same create."""
    return {"Idempotency-Key": key or uuid.uuid4().hex}


def without_none(**fields: Any) -> dict[str, Any]:
    """The fields that were given."""
    return {name: value for name, value in fields.items() if value is not None}


def exec_call(
    route: str,
    cmd: str | Sequence[str],
    timeout_seconds: float | None,
    *,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    stdin: str | None = None,
) -> Call:
    """A command's request. Its HTTP timeout exceeds the command's own, so the server's verdict arrives."""
    return Call(
        "POST",
        route,
        json=without_none(
            cmd=command_line(cmd),
            timeout_seconds=timeout_seconds,
            cwd=cwd,
            env=None if env is None else dict(env),
            user=user,
            stdin=stdin,
        ),
        timeout_seconds=None if timeout_seconds is None else timeout_seconds + EXEC_MARGIN_SECONDS,
    )


def process_query(
    cmd: str | Sequence[str] | None,
    *,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
) -> dict[str, str | list[str]]:
    """The query that starts a program to talk to."""
    return without_none(
        cmd=None if cmd is None else command_line(cmd),
        cwd=cwd,
        env=[f"{name}={value}" for name, value in env.items()] if env else None,
        user=user,
    )


def command_line(cmd: str | Sequence[str]) -> str:
    """A shell command: text as it stands, a list of arguments quoted."""
    return cmd if isinstance(cmd, str) else shlex.join(cmd)


_INTERPRETERS = {
    "python": ("python3 -c", "python3", ".py"),
    "bash": ("bash -c", "bash", ".sh"),
    "shell": ("sh -c", "sh", ".sh"),
    "sh": ("sh -c", "sh", ".sh"),
    "javascript": ("node -e", "node", ".js"),
    "node": ("node -e", "node", ".js"),
}

KERNEL_LANGUAGES = ("typescript", "r", "java")
"""Languages that no command line runs as a cell: they need a kernel."""


def inline_code(code: str, language: str) -> str | None:
    """The command that runs ``code``, or ``None`` when it is too long for a command line.

    Raises:
        ValueError: we know no interpreter of that name.
    """
    prefix, _, _ = _interpreter(language)
    return f"{prefix} {shlex.quote(code)}" if len(code.encode()) <= MAX_INLINE_CODE_BYTES else None


def code_file(language: str) -> tuple[str, str]:
    """A fresh path in the guest for code of ``language``, and the command that runs and removes it."""
    _, interpreter, suffix = _interpreter(language)
    name = f"/tmp/pandastack-{uuid.uuid4().hex}{suffix}"  # noqa: S108 - in the guest
    return name, f"{interpreter} {name}; code=$?; rm -f {name}; exit $code"


def _interpreter(language: str) -> tuple[str, str, str]:
    try:
        return _INTERPRETERS[language]
    except KeyError:
        known = ", ".join((*_INTERPRETERS, *KERNEL_LANGUAGES))
        raise ValueError(f"run_code knows {known}; not {language!r}") from None


def volumes(given: Volumes | None) -> list[dict[str, Any]] | None:
    """Volumes as the API wants them; a bare string is a name."""
    if given is None:
        return None
    return [
        {"name": item, "read_only": False} if isinstance(item, str) else {"read_only": False, **item}
        for item in given
    ]


def decode(body: bytes) -> Any:
    """The JSON of a body, ``None`` of an empty one.

    Raises:
        errors.ServerError: it is something else; usually another server answers on this address.
    """
    if not body.strip():
        return None
    try:
        return json.loads(body)
    except ValueError:
        raise errors.ServerError(
            f"the answer is not JSON ({_shortened(body)}): is this URL really that of a PandaStack server?"
        ) from None


def mapping(data: Any) -> Json:
    """An answer that must be an object.

    Raises:
        errors.ServerError: it is not.
    """
    if isinstance(data, Mapping):
        return data
    raise errors.ServerError(f"the server answered {type(data).__name__} where an object belongs")


def items(data: Any, *envelopes: str) -> list[Json]:
    """A list, bare or under one of ``envelopes``."""
    if isinstance(data, Mapping):
        data = next((data[name] for name in (*envelopes, "items") if data.get(name) is not None), [])
    return [item for item in data or () if isinstance(item, Mapping)]


def fork_children(data: Any) -> list[Json]:
    """The children of a fork or fork-tree answer, in order, whichever of its published shapes it has."""
    if isinstance(data, list):
        found = data
    else:
        answer = mapping(data)
        found = next(
            (answer[key] for key in ("sandboxes", "children", "items") if _holds_objects(answer.get(key))), []
        )
        if not found and isinstance(answer.get("sandbox"), Mapping):
            found = [answer["sandbox"]]
        if not found:
            found = answer.get("children") or ([answer] if "id" in answer else [])
    return [item if isinstance(item, Mapping) else {"id": str(item)} for item in found]


def fork_failures(data: Any) -> dict[str, str]:
    """Why children of a fork are missing: ``failures`` as ``{child: text}`` or a list of objects or texts."""
    found = data.get("failures") if isinstance(data, Mapping) else None
    if isinstance(found, Mapping):
        return {str(child): str(why) for child, why in found.items()}
    failures = {}
    for index, item in enumerate(found or ()):
        if isinstance(item, Mapping):
            child = item.get("id") or item.get("index", index)
            failures[str(child)] = str(item.get("error") or item)
        else:
            failures[str(index)] = str(item)
    return failures


def _holds_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


def api_error(status: int, headers: Mapping[str, str], body: bytes) -> errors.PandastackError:
    """The exception for an answer that is not a success."""
    try:
        data = json.loads(body)
    except ValueError:
        data = None
    facts: Json = data if isinstance(data, Mapping) else {}
    message = next(
        (str(facts[key]) for key in ("error", "message", "detail") if facts.get(key)), ""
    ) or _plain_message(status, headers, body)
    code = str(facts["code"]) if facts.get("code") else None
    request_id = headers.get("x-request-id") or facts.get("request_id")
    retryable = facts.get("retryable")
    about: dict[str, Any] = {
        "status_code": status,
        "code": code,
        "request_id": None if request_id is None else str(request_id),
        "retryable": retryable if isinstance(retryable, bool) else None,
    }
    if code == "command_timeout":
        return errors.SandboxTimeout(
            message, stdout=str(facts.get("stdout") or ""), stderr=str(facts.get("stderr") or ""), **about
        )
    return _error_class(status)(message, **about)


def socket_error(said: Json) -> errors.PandastackError:
    """The exception for an error that was told over a WebSocket."""
    status = said.get("status")
    return api_error(status if isinstance(status, int) else 500, {}, json.dumps(dict(said)).encode())


def is_platform_refusal(body: bytes) -> bool:
    """Whether a refusal has the platform's own error body, which a load balancer's has not."""
    try:
        data = json.loads(body)
    except ValueError:
        return False
    text = data.get("error") if isinstance(data, Mapping) else None
    return isinstance(text, str) and bool(text.strip())


def as_exec_error(error: errors.ServerError) -> errors.PandastackError:
    """A server error of an exec, as the timeout it means where its text says so (how older servers tell)."""
    text = error.message.lower()
    if (
        "timeout" in text or "timed out" in text or "deadline exceeded" in text
    ) and "i/o timeout" not in text:
        return errors.SandboxTimeout(
            error.message,
            status_code=error.status_code,
            code=error.code,
            request_id=error.request_id,
            retryable=error.retryable,
        )
    return error


def cell_call(
    route: str,
    code: str,
    timeout_seconds: float | None,
    env: Mapping[str, str] | None,
    language: str | None = None,
) -> Call:
    """The request that runs a cell."""
    return Call(
        "POST",
        route,
        json=without_none(
            code=code,
            language=language,
            timeout_ms=None if timeout_seconds is None else round(timeout_seconds * 1000),
            env=None if env is None else dict(env),
        ),
        timeout_seconds=None if timeout_seconds is None else timeout_seconds + EXEC_MARGIN_SECONDS,
    )


def once_call(
    route: str,
    code: str,
    language: str,
    timeout_seconds: float | None,
    *,
    env: Mapping[str, str] | None = None,
    **unfit: object,
) -> Call:
    """The request that runs one cell in a kernel of its own.

    Raises:
        ValueError: it is given what a kernel does not take.
    """
    if refused := [name for name, value in unfit.items() if value is not None]:
        raise ValueError(f"{language} runs in a kernel, which takes no {' and no '.join(refused)}")
    return cell_call(route, code, timeout_seconds, env, language)


def cell_event(event: SseEvent) -> CellEvent | None:
    """One event of a cell's stream; ``None`` for kinds we do not know.

    Raises:
        errors.SandboxTimeout: the cell ran out of its time.
        errors.ServerError: the cell could not be run to its end.
    """
    data = _event_data(event)
    match event.event:
        case "stdout" | "stderr" as stream:
            return CellOutput(stream, str(data.get("chunk", "")))
        case "result":
            return Result.from_dict(data.get("data") or {})
        case "exception":
            return CellException.from_dict(data)
        case "exit":
            return CellExit(int(data.get("exit_code", 0) or 0), int(data.get("duration_ms", 0) or 0))
        case "error":
            raise _stream_error(event, data)
        case _:
            return None


def exec_event(event: SseEvent) -> ExecEvent | None:
    """One event of an exec stream; ``None`` for kinds we do not know.

    Raises:
        errors.SandboxTimeout: the command ran out of its time.
        errors.ServerError: the command could not be run to its end.
    """
    data = _event_data(event)
    match event.event:
        case "stdout" | "stderr":
            return ExecOutput("stdout" if event.event == "stdout" else "stderr", _output_bytes(data))
        case "exit":
            return ExecExit(int(data.get("exit_code", data.get("exit", 0)) or 0))
        case "error":
            raise _stream_error(event, data)
        case _:
            return None


def _stream_error(event: SseEvent, data: Json) -> errors.PandastackError:
    message = str(data.get("error") or event.data)
    code = str(data["code"]) if data.get("code") else None
    if code == "command_timeout":
        return errors.SandboxTimeout(message, code=code)
    return as_exec_error(errors.ServerError(message, code=code))


def log_text(event: SseEvent) -> str:
    """The line or chunk of a followed log."""
    try:
        data = json.loads(event.data)
    except ValueError:
        return event.data
    if not isinstance(data, Mapping):
        return event.data
    return str(data.get("line", data.get("chunk", "")))


def _event_data(event: SseEvent) -> Json:
    try:
        data = json.loads(event.data)
    except ValueError:
        data = None
    if not isinstance(data, Mapping):
        raise errors.ServerError(
            f"the output stream holds an event that cannot be read: {event.data[:200]!r}"
        )
    return data


def _output_bytes(data: Json) -> bytes:
    # Output that is not UTF-8 has no faithful JSON text; the server then sends the bytes beside it.
    exact = data.get("base64")
    if isinstance(exact, str):
        try:
            return base64.b64decode(exact, validate=True)
        except binascii.Error:
            raise errors.ServerError("the output stream holds bytes that cannot be decoded") from None
    return str(data.get("chunk", "")).encode("utf-8", "replace")


def _error_class(status: int) -> type[errors.PandastackError]:
    exact: dict[int, type[errors.PandastackError]] = {
        401: errors.AuthError,
        403: errors.ForbiddenError,
        404: errors.NotFoundError,
        409: errors.ConflictError,
        413: errors.TooLargeError,
        429: errors.RateLimitError,
        501: errors.NotBuiltError,
        503: errors.CapacityError,
        507: errors.CapacityError,
    }
    return exact.get(status) or (errors.ServerError if status >= 500 else errors.BadRequestError)


def _plain_message(status: int, headers: Mapping[str, str], body: bytes) -> str:
    if 300 <= status < 400:
        return f"the server redirects to {headers.get('location', 'nowhere')}; use that as the server's URL"
    return f"HTTP {status}" + (f": {_shortened(body)}" if body.strip() else "")


def _shortened(body: bytes, limit: int = 200) -> str:
    text = " ".join(body[: 4 * limit].decode("utf-8", "replace").split())
    return text if len(text) <= limit else text[:limit] + "…"
