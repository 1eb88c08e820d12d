"""The shapes on the wire of E2B's control routes: what requests may say."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StrictBool, StrictInt, StrictStr

from pandastackd.api.wire import Request
from pandastackd.errors import InvalidRequest

Seconds = Annotated[StrictInt, Field(ge=0)]


class AutoResume(Request):
    """Whether traffic wakes a paused sandbox."""

    enabled: StrictBool


class NewSandbox(Request):
    """``POST /sandboxes`` and ``POST /v2/sandboxes``.

    ``secure`` is accepted either way: the access token is always demanded, and every client that gets one
    sends it. Without ``autoResume``, traffic wakes a paused sandbox.
    """

    template_id: Annotated[StrictStr, Field(alias="templateID", min_length=1, max_length=128)] = "base"
    timeout: Seconds = 300
    auto_pause: Annotated[StrictBool | None, Field(alias="autoPause")] = None
    auto_pause_memory: Annotated[StrictBool | None, Field(alias="autoPauseMemory")] = None
    auto_resume: Annotated[AutoResume | None, Field(alias="autoResume")] = None
    secure: StrictBool | None = None
    allow_internet_access: StrictBool | None = None
    metadata: dict[StrictStr, StrictStr] | None = None
    env_vars: Annotated[dict[StrictStr, StrictStr] | None, Field(alias="envVars", repr=False)] = None
    network: dict[str, Any] | None = None
    mcp: dict[str, Any] | None = None
    iam: dict[str, Any] | None = None
    volume_mounts: Annotated[list[Any] | None, Field(alias="volumeMounts")] = None

    def check(self) -> None:
        """Refuse by name what cannot be done.

        Raises:
            InvalidRequest: something is asked for that this platform does not have.
        """
        refused = [
            field
            for field, asked in {
                "autoPauseMemory=false": self.auto_pause_memory is False,
                "allow_internet_access=false": self.allow_internet_access is False,
                "mcp": bool(self.mcp),
                "iam": bool(self.iam),
                "volumeMounts": bool(self.volume_mounts),
                **{
                    f"network.{name}": value not in (None, [], {})
                    for name, value in (self.network or {}).items()
                    if (name, value) != ("allowPublicTraffic", True)
                },
            }.items()
            if asked
        ]
        if refused:
            raise not_supported(", ".join(refused))


class ConnectBody(Request):
    """``POST …/connect`` and ``POST …/resume``."""

    timeout: Seconds | None = None
    memory: StrictBool | None = None
    auto_pause: Annotated[StrictBool | None, Field(alias="autoPause")] = None

    def check(self) -> None:
        """Refuse by name what cannot be done. Raises InvalidRequest."""
        if self.memory is False:
            raise not_supported("memory=false (a boot without the memory that was kept)")
        if self.auto_pause is not None:
            raise not_supported("autoPause at resume (it is decided at create)")


class TimeoutBody(Request):
    """``POST …/timeout``."""

    timeout: Seconds


class RefreshBody(Request):
    """``POST …/refreshes``."""

    duration: Seconds | None = None


class PauseBody(Request):
    """``POST …/pause``."""

    memory: StrictBool | None = None
    require_healthy_guest: Annotated[StrictBool | None, Field(alias="requireHealthyGuest")] = None

    def check(self) -> None:
        """Refuse by name what cannot be done. Raises InvalidRequest."""
        if self.memory is False:
            raise not_supported("memory=false (a pause that keeps the disk alone)")


def not_supported(what: str) -> InvalidRequest:
    """The refusal of something these clients know and this platform does not have."""
    return InvalidRequest(f"not supported yet: {what}; send the request without it", code="not_supported")
