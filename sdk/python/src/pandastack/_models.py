"""What the API answers with, as typed values. Shared by the sync and the async client; no I/O.

Every reader ignores fields it does not know, so an older client works with a newer server.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

Json = Mapping[str, Any]
StreamName = Literal["stdout", "stderr"]


class Record(Mapping[str, Any]):
    """A typed answer that can also be read as the dictionary it came as (``answer["id"]``)."""

    raw: Json

    def __getitem__(self, key: str) -> Any:
        return self.raw[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.raw)

    def __len__(self) -> int:
        return len(self.raw)

    __hash__ = None  # type: ignore[assignment]  # holds a dictionary


@dataclass(frozen=True, eq=False)
class Account(Record):
    """Who the API key belongs to."""

    user_id: str
    email: str
    auth_method: str
    raw: Json = field(repr=False, default_factory=dict)

    @classmethod
    def from_dict(cls, data: Json) -> Self:
        return cls(_str(data, "user_id"), _str(data, "email"), _str(data, "auth_method"), data)


@dataclass
class SandboxFields:
    """What the server says of a sandbox; ``refresh()`` brings it up to date.

    Attributes:
        id: the sandbox's id; also part of its preview host names.
        template: what it was made from.
        cpu: virtual CPUs.
        memory_mb: guest memory in MiB.
        status: ``creating running paused stopping deleted failed hibernated``.
        guest_ip: its address on the host.
        created_at: RFC 3339.
        metadata: the caller's own labels.
        from_snapshot: the snapshot it was restored from, if not the template's.
        boot_ms: how long its create took on the server.
        boot_mode: how it came up, such as ``restore``.
        persistent: whether it has no time to live.
        phases_ms: where ``boot_ms`` went: ``slot disk vmm load guest total``.
        failure: why it is ``failed``.
    """

    id: str
    template: str
    cpu: int
    memory_mb: int
    status: str
    guest_ip: str | None = None
    created_at: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    from_snapshot: str | None = None
    boot_ms: float | None = None
    boot_mode: str | None = None
    persistent: bool = False
    phases_ms: dict[str, float] = field(default_factory=dict)
    failure: str | None = None

    def update_from(self, data: Json) -> None:
        """Take over what a fresh answer says."""
        for name, value in sandbox_fields(data).items():
            setattr(self, name, value)


def sandbox_fields(data: Json) -> dict[str, Any]:
    """The constructor arguments of a sandbox, from a server's answer.

    Raises:
        KeyError: the answer has no ``id``, so it does not describe a sandbox.
    """
    return {
        "id": str(data["id"]),
        "template": _str(data, "template"),
        "cpu": _int(data, "cpu", 1),
        "memory_mb": _int(data, "memory_mb", 512),
        "status": _str(data, "status", "running"),
        "guest_ip": data.get("guest_ip"),
        "created_at": data.get("created_at"),
        "metadata": dict(data.get("metadata") or {}),
        "from_snapshot": data.get("from_snapshot"),
        "boot_ms": data.get("boot_ms"),
        "boot_mode": data.get("boot_mode"),
        "persistent": bool(data.get("persistent", False)),
        "phases_ms": dict(data.get("phases_ms") or {}),
        "failure": data.get("failure") or data.get("error"),
    }


@dataclass(frozen=True)
class ExecResult:
    """A finished command."""

    stdout: str
    stderr: str
    exit_code: int
    duration_ms: int = 0

    @classmethod
    def from_dict(cls, data: Json) -> Self:
        return cls(
            stdout=_str(data, "stdout"),
            stderr=_str(data, "stderr"),
            exit_code=_exit_code(data),
            duration_ms=_int(data, "duration_ms"),
        )


@dataclass(frozen=True)
class ExecOutput:
    """A piece of output of a running command.

    Attributes:
        stream: ``stdout`` or ``stderr``.
        data: exactly the bytes that were printed; a character may be cut at either end.
    """

    stream: StreamName
    data: bytes


@dataclass(frozen=True)
class ExecExit:
    """The last event of a command."""

    exit_code: int


ExecEvent = ExecOutput | ExecExit


@dataclass(frozen=True)
class Result:
    """One rich output of a code cell: the same thing in one or more MIME types. Images are base64 text."""

    data: dict[str, Any]

    @property
    def png(self) -> str | None:
        return self._text("image/png")

    @property
    def jpeg(self) -> str | None:
        return self._text("image/jpeg")

    @property
    def svg(self) -> str | None:
        return self._text("image/svg+xml")

    @property
    def html(self) -> str | None:
        return self._text("text/html")

    @property
    def markdown(self) -> str | None:
        return self._text("text/markdown")

    @property
    def text(self) -> str | None:
        return self._text("text/plain")

    @property
    def json(self) -> Any:
        """The value of an ``application/json`` output, or ``None``."""
        return self._json("application/json")

    def _json(self, mime: str) -> Any:
        import json

        value = self.data.get(mime)
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError:
            return value

    @property
    def latex(self) -> str | None:
        return self._text("text/latex")

    @property
    def pdf(self) -> str | None:
        """A PDF document, in base64."""
        return self._text("application/pdf")

    @property
    def javascript(self) -> str | None:
        return self._text("application/javascript")

    @property
    def chart(self) -> str | None:
        """The first picture there is: PNG, then JPEG, then SVG."""
        return self.png or self.jpeg or self.svg

    @property
    def chart_data(self) -> Any:
        """What a matplotlib figure shows, as data: ``type``, ``title``, ``elements`` and more; or ``None``."""
        return self._json("e2b/chart")

    @property
    def table(self) -> Any:
        """The columns of a data frame by name; or ``None``."""
        return self._json("e2b/data")

    def _text(self, mime: str) -> str | None:
        value = self.data.get(mime)
        return None if value is None else str(value)

    @classmethod
    def from_dict(cls, data: Json) -> Self:
        if "type" in data:
            return cls({str(data["type"]): data.get("data", "")})
        return cls(dict(data))


@dataclass(frozen=True)
class CellOutput:
    """Text that a running cell printed."""

    stream: StreamName
    text: str


@dataclass(frozen=True)
class CellException:
    """What ended a cell before its end."""

    name: str
    value: str
    traceback: str

    @classmethod
    def from_dict(cls, data: Json) -> Self:
        return cls(_str(data, "name"), _str(data, "value"), _str(data, "traceback"))


@dataclass(frozen=True)
class CellExit:
    """The end of a cell; ``exit_code`` is 1 if it raised."""

    exit_code: int
    duration_ms: int = 0


CellEvent = CellOutput | Result | CellException | CellExit


@dataclass(frozen=True)
class Execution:
    """A finished code cell. ``error`` is the formatted traceback of a cell that raised, ``exception`` its parts."""

    results: list[Result] = field(default_factory=list)
    stdout: str = ""
    stderr: str = ""
    error: str | None = None
    exit_code: int = 0
    duration_ms: int = 0
    exception: CellException | None = None

    @property
    def logs(self) -> dict[str, str]:
        """What the cell printed, by stream."""
        return {"stdout": self.stdout, "stderr": self.stderr}

    @property
    def text(self) -> str | None:
        """The first plain-text result, such as the value of the last expression."""
        return next((result.text for result in self.results if result.text is not None), None)

    @property
    def png(self) -> str | None:
        """The first PNG result, in base64."""
        return next((result.png for result in self.results if result.png is not None), None)

    @classmethod
    def from_dict(cls, data: Json) -> Self:
        return cls(
            results=[
                Result.from_dict(item) for item in data.get("results") or () if isinstance(item, Mapping)
            ],
            stdout=_str(data, "stdout"),
            stderr=_str(data, "stderr"),
            error=_str(data, "error") or None,
            exit_code=_exit_code(data),
            duration_ms=_int(data, "duration_ms"),
            exception=CellException.from_dict(raised)
            if isinstance(raised := data.get("exception"), Mapping)
            else None,
        )

    @classmethod
    def from_events(cls, events: Sequence[CellEvent]) -> Self:
        """What a streamed cell did, as a whole."""
        printed = {"stdout": "", "stderr": ""}
        for name in printed:
            printed[name] = "".join(e.text for e in events if isinstance(e, CellOutput) and e.stream == name)
        raised = next((event for event in events if isinstance(event, CellException)), None)
        end = next(
            (event for event in events if isinstance(event, CellExit)), CellExit(int(raised is not None))
        )
        return cls(
            results=[event for event in events if isinstance(event, Result)],
            **printed,
            error=(raised.traceback or f"{raised.name}: {raised.value}") if raised else None,
            exit_code=end.exit_code,
            duration_ms=end.duration_ms,
            exception=raised,
        )

    def as_printed(self) -> ExecResult:
        """As an interpreter that prints its results, and the error at which it stopped, would have left it."""
        values = "".join(f"{result.text}\n" for result in self.results if result.text is not None)
        error = f"{self.error}\n" if self.error else ""
        return ExecResult(self.stdout + values, self.stderr + error, self.exit_code, self.duration_ms)


@dataclass(frozen=True)
class FileInfo:
    """One entry of the guest's file system. ``mtime`` is seconds since 1970, ``size`` bytes."""

    name: str
    path: str
    is_dir: bool
    size: int = 0
    mode: str = ""
    mtime: int = 0

    @classmethod
    def from_dict(cls, data: Json, *, path: str) -> Self:
        return cls(
            name=_str(data, "name") or path.rstrip("/").rpartition("/")[2],
            path=_str(data, "path") or path,
            is_dir=bool(data.get("is_dir", False)),
            size=_int(data, "size"),
            mode=_str(data, "mode"),
            mtime=_int(data, "mtime"),
        )


@dataclass(frozen=True, eq=False)
class WriteResult(Record):
    """A written file: where it is and how many bytes it has."""

    path: str
    bytes: int
    raw: Json = field(repr=False, default_factory=dict)

    @classmethod
    def from_dict(cls, data: Json) -> Self:
        return cls(_str(data, "path"), _int(data, "bytes"), data)


@dataclass(frozen=True, eq=False)
class Lifecycle(Record):
    """How long a sandbox may live. Seconds; ``idle_seconds`` since it was last used."""

    ttl_seconds: int | None
    persistent: bool
    idle_seconds: float
    raw: Json = field(repr=False, default_factory=dict)

    @classmethod
    def from_dict(cls, data: Json) -> Self:
        ttl = data.get("ttl_seconds")
        return cls(
            None if ttl is None else int(ttl),
            bool(data.get("persistent", False)),
            float(data.get("idle_seconds") or 0),
            data,
        )


@dataclass(frozen=True, eq=False)
class Network(Record):
    """What a sandbox's network may do.

    ``allow_out`` and ``deny_out`` are addresses and networks, and allowing wins; ``internet=False`` denies the rest.
    Where ``public_traffic`` is ``False``, ports demand ``traffic_token`` in the header ``e2b-traffic-access-token``.
    """

    internet: bool
    allow_out: list[str]
    deny_out: list[str]
    public_traffic: bool
    mask_host: str | None
    traffic_token: str | None = field(repr=False, default=None)
    raw: Json = field(repr=False, default_factory=dict)

    @classmethod
    def from_dict(cls, data: Json) -> Self:
        return cls(
            bool(data.get("internet", True)),
            [str(entry) for entry in data.get("allow_out") or ()],
            [str(entry) for entry in data.get("deny_out") or ()],
            bool(data.get("public_traffic", True)),
            data.get("mask_host"),
            data.get("traffic_token"),
            data,
        )


@dataclass(frozen=True, eq=False)
class Promotion(Record):
    """What promoting a branch did: the winner, the siblings deleted, and those that could not be."""

    winner: str
    tree_id: str | None
    deleted: list[str]
    failures: dict[str, str]
    raw: Json = field(repr=False, default_factory=dict)

    @classmethod
    def from_dict(cls, data: Json) -> Self:
        return cls(
            _str(data, "winner"),
            data.get("tree_id"),
            [str(item) for item in data.get("deleted") or ()],
            {str(key): str(value) for key, value in (data.get("failures") or {}).items()},
            data,
        )


@dataclass(frozen=True)
class TreeNode:
    """A sandbox and the forks that were made of it."""

    id: str
    status: str
    template: str = ""
    created_at: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    children: list[TreeNode] = field(default_factory=list)

    @classmethod
    def from_dict(cls, data: Json) -> TreeNode:
        for envelope in ("tree", "root"):
            if isinstance(data.get(envelope), Mapping):
                return cls.from_dict(data[envelope])
        return cls(
            id=str(data["id"]),
            status=_str(data, "status"),
            template=_str(data, "template"),
            created_at=data.get("created_at"),
            metadata=dict(data.get("metadata") or {}),
            children=[cls.from_dict(child) for child in data.get("children") or ()],
        )

    def walk(self) -> Iterator[TreeNode]:
        """This node and all below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True, eq=False)
class Snapshot(Record):
    """A sandbox's memory, device state and disk at one instant."""

    id: str
    sandbox_id: str
    template: str
    size_bytes: int
    created_at: str | None = None
    name: str | None = None
    raw: Json = field(repr=False, default_factory=dict)

    @classmethod
    def from_dict(cls, data: Json) -> Self:
        return cls(
            str(data.get("id") or data["snapshot_id"]),
            _str(data, "sandbox_id"),
            _str(data, "template"),
            _int(data, "size_bytes"),
            data.get("created_at"),
            data.get("name"),
            data,
        )


@dataclass(frozen=True)
class Template:
    """Something sandboxes can be made from; ``memory_mb`` is MiB of guest memory."""

    name: str
    rootfs_path: str | None = None
    size_bytes: int | None = None
    cpu: int | None = None
    memory_mb: int | None = None
    is_global: bool | None = None
    workspace: str | None = None
    label: str | None = None
    description: str | None = None
    category: str | None = None
    base: str | None = None
    tools: builtins.list[str] | None = None
    meta: dict[str, Any] | None = None

    @classmethod
    def from_dict(cls, data: Json) -> Self:
        known = {name: data.get(name) for name in cls.__dataclass_fields__}
        return cls(**{**known, "name": str(data["name"])})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Token:
    """An API key as the server remembers it. ``token`` is the key itself, and is only set by ``create``."""

    prefix: str
    name: str = ""
    token: str | None = field(default=None, repr=False)
    created_at: str | None = None
    expires_at: str | None = None

    @property
    def label(self) -> str:
        """The same as ``name``."""
        return self.name

    @classmethod
    def from_dict(cls, data: Json) -> Self:
        return cls(
            prefix=_str(data, "prefix"),
            name=_str(data, "label") or _str(data, "name"),
            token=data.get("token"),
            created_at=data.get("created_at"),
            expires_at=data.get("expires_at"),
        )


@dataclass(frozen=True)
class Volume:
    """A volume to attach at create; the name says which."""

    name: str
    read_only: bool = False


def _str(data: Json, key: str, default: str = "") -> str:
    value = data.get(key)
    return default if value is None else str(value)


def _int(data: Json, key: str, default: int = 0) -> int:
    value = data.get(key)
    return default if value is None else int(value)


def _exit_code(data: Json) -> int:
    return int(data.get("exit_code", data.get("exit", 0)) or 0)
