"""The shapes on the wire: what requests may say and what answers look like.

Unknown fields are refused by name, since an option that is accepted and ignored is worse than an error. The
exceptions are the fields that the published contract says to ignore, named where they are.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from pandastackd.control import SandboxRow
from pandastackd.lifecycle import State

Seconds = Annotated[float, Field(strict=True, allow_inf_nan=False)]


MaskHost = Annotated[StrictStr, Field(max_length=255, pattern=r"^[A-Za-z0-9.:_${}\[\]-]+$")]
"""What servers in a sandbox see as ``Host``; ``${PORT}`` in it is the port."""


class Request(BaseModel):
    """Root of all request bodies."""

    model_config = ConfigDict(extra="forbid")


class ErrorBody(BaseModel):
    """Every error.

    Attributes:
        error: one line for people: what happened, what it means, what to do.
        code: a stable word for programs.
    """

    error: str
    code: str
    request_id: str


class VolumeMount(Request):
    """A volume to attach."""

    name: StrictStr
    read_only: StrictBool = False


class EgressBody(Request):
    """``PUT /v1/sandboxes/{id}/network``: where a sandbox may connect to. What is left out is cleared.

    ``allow_out`` and ``deny_out`` are addresses and networks, and allowing wins. ``internet: false`` denies all that is
    not allowed by name, and DNS.
    """

    internet: StrictBool = True
    allow_out: tuple[StrictStr, ...] = ()
    deny_out: tuple[StrictStr, ...] = ()


class NetworkBody(EgressBody):
    """``network`` at create. With ``public_traffic: false``, ports are reached with the ``traffic_token`` only.

    ``mask_host`` is what servers in the sandbox see as ``Host``; ``${PORT}`` in it is the port.
    """

    public_traffic: StrictBool = True
    mask_host: MaskHost | None = None


class CreateBody(Request):
    """``POST /v1/sandboxes``. ``cpu`` and ``memory_mb`` are the template's to decide; old scripts send
    them.
    """

    template: Annotated[StrictStr, Field(min_length=1, max_length=128)] = "code-interpreter"
    metadata: dict[StrictStr, StrictStr] | None = None
    ttl_seconds: StrictInt | None = None
    persistent: StrictBool | None = None
    from_snapshot: Annotated[StrictStr, Field(min_length=1, max_length=128)] | None = None
    on_timeout: Literal["delete", "hibernate"] | None = None
    env: dict[StrictStr, StrictStr] | None = None
    network: NetworkBody | None = None
    volumes: list[VolumeMount] | None = None
    cpu: Any = Field(default=None, deprecated=True)
    memory_mb: Any = Field(default=None, deprecated=True)


class LifetimeBody(Request):
    """``PATCH /v1/sandboxes/{id}/lifecycle``."""

    ttl_seconds: StrictInt | None = None
    persistent: StrictBool | None = None


class Whereabouts(Request):
    """Where, with what and as whom a command runs. ``env`` is added to the sandbox's; ``cwd`` is the user's home by
    default.
    """

    cwd: Annotated[StrictStr, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")] | None = None
    env: dict[StrictStr, StrictStr] | None = None
    user: Annotated[StrictStr, Field(max_length=64, pattern=r"^[A-Za-z0-9_.][A-Za-z0-9_.$-]*$")] | None = None


class ExecBody(Whereabouts):
    """``POST /v1/sandboxes/{id}/exec`` and ``…/exec/stream``. Without a timeout, a command gets one day; without
    ``stdin``, it reads nothing.
    """

    cmd: Annotated[StrictStr, Field(max_length=128 * 1024)]
    timeout_seconds: Seconds | None = None
    stdin: StrictStr | None = None


class ProgramQuery(Whereabouts):
    """The query of ``/exec/pty`` and ``/exec/stdio``, but for the size of a terminal. ``env`` is ``NAME=VALUE``, as
    often as there are variables.
    """

    cmd: StrictStr | None = None


class ContextBody(Request):
    """``POST /v1/sandboxes/{id}/repl/sessions``."""

    language: Annotated[StrictStr, Field(min_length=1, max_length=64)] | None = None
    cwd: Annotated[StrictStr, Field(min_length=1, max_length=4096)] | None = None


class CellBody(Request):
    """``POST /v1/sandboxes/{id}/repl/sessions/{sid}/run`` and ``…/run/stream``. Without a timeout, a cell gets one
    day. ``env`` is for this cell alone.
    """

    code: StrictStr
    timeout_ms: Seconds | None = None
    env: dict[StrictStr, StrictStr] | None = None


class OnceBody(CellBody):
    """``POST /v1/sandboxes/{id}/repl``."""

    language: Annotated[StrictStr, Field(min_length=1, max_length=64)] | None = None


class TokenBody(Request):
    """``POST /v1/me/tokens``. ``name`` is the same as ``label``; one published client says so."""

    label: StrictStr | None = None
    name: StrictStr | None = None
    expires_in_days: StrictInt | None = None


class SnapshotBody(Request):
    """``POST /v1/sandboxes/{id}/snapshots``."""

    name: Annotated[StrictStr, Field(min_length=1, max_length=128)] | None = None


class PortBody(Request):
    """``POST /v1/sandboxes/{id}/ports``."""

    port: StrictInt
    label: StrictStr = ""


class PreviewBody(Request):
    """``POST /v1/sandboxes/{id}/preview-token``. ``paths`` are prefixes; without, every path is allowed."""

    port: StrictInt
    ttl_seconds: StrictInt = 3600
    paths: list[StrictStr] = []


class RollbackBody(Request):
    """``POST /v1/sandboxes/{id}/rollback``."""

    snapshot_id: Annotated[StrictStr, Field(min_length=1, max_length=128)]


class ForkBody(Request):
    """``POST /v1/sandboxes/{id}/fork``. There is one ``mode``; old clients name it."""

    count: Annotated[StrictInt, Field(ge=1, le=100)] = 1
    metadata: dict[StrictStr, StrictStr] | None = None
    mode: Literal["warm"] | None = None


class ForkTreeBody(Request):
    """``POST /v1/sandboxes/{id}/fork-tree``. ``metadata`` may not set ``fork_tree_id`` or ``owner``."""

    count: Annotated[StrictInt, Field(ge=1, le=100)]
    metadata: dict[StrictStr, StrictStr] | None = None


class PromoteBody(Request):
    """``POST /v1/sandboxes/{id}/promote``. Without ``tree_id``, the tree that the branch is of."""

    cleanup_siblings: StrictBool = False
    tree_id: Annotated[StrictStr, Field(max_length=128)] | None = None


class Nothing(Request):
    """A body that has nothing to say."""


class SandboxInfo(BaseModel):
    """A sandbox.

    Attributes:
        boot_ms: how long the host took, up to the guest's first answer, in milliseconds; ``phases_ms`` says
        where it went.
        parent_id: the sandbox it was forked of.
        on_timeout: what becomes of it when its time is up.
        failure: why it failed; ``console_tail`` holds the last lines its machine printed.
    """

    id: str
    template: str
    cpu: int
    memory_mb: int
    status: State
    guest_ip: str
    host_tap: str
    mac: str
    vsock_cid: int | None
    metadata: dict[str, str]
    from_snapshot: str | None
    boot_ms: float | None
    boot_mode: str
    created_at: str
    persistent: bool
    parent_id: str | None
    on_timeout: Literal["delete", "hibernate"]
    ttl_seconds: int
    expires_at: str | None
    last_used_at: str
    phases_ms: dict[str, float]
    failure: str | None
    console_tail: str | None


class NetworkInfo(BaseModel):
    """What a sandbox's network may do. ``traffic_token`` is what its ports demand, in the header
    ``e2b-traffic-access-token``, where they are not for everybody.
    """

    internet: bool
    allow_out: list[str]
    deny_out: list[str]
    public_traffic: bool
    mask_host: str | None
    traffic_token: str | None


class UsageInfo(BaseModel):
    """What a sandbox's machine takes of its host; ``host_cpu_percent`` is of one processor."""

    pid: int
    uptime_seconds: float
    host_cpu_percent: float
    host_rss_bytes: int
    host_vsz_bytes: int
    threads: int


class PortInfo(BaseModel):
    """A port of a sandbox.

    Attributes:
        source: ``user`` when it has a label, else ``detected``.
        proxy_url: reaches it through the API, with an API key.
    """

    port: int
    label: str
    listening: bool
    source: Literal["user", "detected"]
    proxy_url: str


class PreviewInfo(BaseModel):
    """Leave to reach a port without a key: whoever has ``url`` may, until ``expires_at``."""

    url: str
    token: str
    expires_at: str


class LanguagesInfo(BaseModel):
    """What code may be written in; ``default`` is for who names no language."""

    languages: list[str]
    default: str
    template: str


class ContextInfo(BaseModel):
    """A kernel that keeps its variables from cell to cell."""

    id: str
    language: str
    cwd: str


class ExceptionInfo(BaseModel):
    """What ended a cell before its end."""

    name: str
    value: str
    traceback: str


class CellInfo(BaseModel):
    """A cell that has ended.

    Attributes:
        exit, exit_code: 1 if it raised, else 0.
        error: the traceback of a cell that raised; ``exception`` has its parts.
        results: each thing that it showed, by type; what is no text in base64, JSON as text.
    """

    stdout: str
    stderr: str
    exit: int
    exit_code: int
    error: str | None
    exception: ExceptionInfo | None
    results: list[dict[str, str]]
    duration_ms: int


class SnapshotInfo(BaseModel):
    """A snapshot.

    Attributes:
        size_bytes: storage it refers to; what it shares with its template and other snapshots is counted too.
        parent_pause_ms: how long the sandbox stood still for it; ``capture_ms`` is until all of it was written.
    """

    id: str
    sandbox_id: str
    template: str
    name: str | None
    cpu: int
    memory_mb: int
    size_bytes: int
    created_at: str
    workspace: str
    parent_pause_ms: float | None
    capture_ms: float | None


class ForkFailure(BaseModel):
    """Why one child of a fork, the ``index``-th from 0, could not be made."""

    index: int
    error: str
    code: str


class ForkedInfo(BaseModel):
    """What every fork answers.

    Attributes:
        snapshot_id: names the capture that the children started from; it is gone once they have.
        parent_pause_ms: how long the parent stood still.
    """

    parent_id: str
    snapshot_id: str
    at: str
    parent_pause_ms: float
    capture_ms: float
    failures: list[ForkFailure]


class ForkInfo(ForkedInfo):
    """A fork: the children's ids, and all that is known of each; ``sandbox`` is the first."""

    children: list[str]
    sandbox: SandboxInfo
    sandboxes: list[SandboxInfo]


class ForkTreeInfo(ForkedInfo):
    """A fork tree and its branches."""

    tree_id: str
    children: list[SandboxInfo]


class PromotionInfo(BaseModel):
    """What came of a promotion: siblings that were deleted, and why others could not be, by id."""

    winner: str
    tree_id: str
    deleted: list[str]
    failures: dict[str, str]


class TreeInfo(BaseModel):
    """A sandbox and the forks of it. What is gone has only its id, template and time."""

    id: str
    status: State
    template: str
    created_at: str | None
    metadata: dict[str, str]
    children: list[TreeInfo]


class LifetimeInfo(BaseModel):
    """How long a sandbox lives, and how long nobody has used it."""

    ttl_seconds: int
    persistent: bool
    idle_seconds: float


class ExecInfo(BaseModel):
    """What a command left behind. Bytes that are not UTF-8 appear as U+FFFD."""

    stdout: str
    stderr: str
    exit_code: int
    duration_ms: int


class TokenInfo(BaseModel):
    """An API key, without its secret."""

    prefix: str
    label: str
    name: str
    created_at: str
    expires_at: str | None
    last_used_at: str | None


class NewToken(TokenInfo):
    """A key that was just made: the only time its secret is shown."""

    token: str


class TokenList(BaseModel):
    """All keys of the workspace."""

    items: list[TokenInfo]


class FileEntry(BaseModel):
    """A file or folder; ``mode`` is octal, ``mtime`` seconds since the epoch."""

    name: str
    is_dir: bool
    size: int
    mode: str
    mtime: int


class Listing(BaseModel):
    """What is in a folder."""

    path: str
    entries: list[FileEntry]


class Written(BaseModel):
    """A file that was written."""

    path: str
    bytes: int


class TemplateInfo(BaseModel):
    """A template that sandboxes can be made from."""

    name: str
    rootfs_path: str
    size_bytes: int
    cpu: int
    memory_mb: int
    is_global: bool
    workspace: str
    label: str
    description: str
    category: str
    base: str
    tools: list[str]
    meta: dict[str, Any]


def time_text(moment: datetime) -> str:
    """RFC 3339, UTC."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def sandbox_info(row: SandboxRow) -> dict[str, Any]:
    """A row as :class:`SandboxInfo`, in the contract's order."""
    return {
        "id": row.id,
        "template": row.template,
        "cpu": row.vcpus,
        "memory_mb": row.memory_mib,
        "status": row.state,
        "guest_ip": row.guest_ip,
        "host_tap": row.host_tap,
        "mac": row.mac,
        "vsock_cid": None,
        "metadata": row.labels,
        "from_snapshot": row.from_snapshot,
        "boot_ms": row.boot_ms,
        "boot_mode": row.boot_mode,
        "created_at": time_text(row.created_at),
        "persistent": row.persistent,
        "parent_id": row.parent_id,
        "on_timeout": row.on_timeout,
        "ttl_seconds": row.ttl_seconds,
        "expires_at": None if row.expires_at is None else time_text(row.expires_at),
        "last_used_at": time_text(row.last_used_at),
        "phases_ms": row.phases,
        "failure": row.failure,
        "console_tail": row.console_tail or None,
    }
