"""The shapes on the wire of E2B's control routes: what requests may say."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StrictBool, StrictInt, StrictStr

from pandastackd.api.wire import MaskHost, Request
from pandastackd.control import Network
from pandastackd.errors import InvalidRequest

Seconds = Annotated[StrictInt, Field(ge=0)]


class AutoResume(Request):
    """Whether traffic wakes a paused sandbox."""

    enabled: StrictBool


class NetworkBody(Request):
    """``PUT …/network``, and the part of ``network`` at create that says where a sandbox may connect to.

    The last four are known, and refused when they ask for anything.
    """

    allow_out: Annotated[tuple[StrictStr, ...], Field(alias="allowOut")] = ()
    deny_out: Annotated[tuple[StrictStr, ...], Field(alias="denyOut")] = ()
    dns_servers: Annotated[Any, Field(alias="dnsServers")] = None
    egress_proxy: Annotated[Any, Field(alias="egressProxy")] = None
    https_ports: Annotated[Any, Field(alias="httpsPorts")] = None
    rules: Any = None

    def refused(self) -> list[str]:
        """The names of what is asked for and cannot be done."""
        asked = {
            "network.dnsServers": self.dns_servers,
            "network.egressProxy": self.egress_proxy,
            "network.httpsPorts": self.https_ports,
            "network.rules": self.rules,
        }
        domains = any(_is_domain(entry) for entry in (*self.allow_out, *self.deny_out))
        return [
            *(name for name, value in asked.items() if value not in (None, [], {})),
            *(["domain names in network.allowOut and network.denyOut"] if domains else []),
        ]


class NetworkUpdate(NetworkBody):
    """``PUT …/network``. What is left out is cleared."""

    allow_internet_access: StrictBool = True

    def check(self) -> None:
        """Refuse by name what cannot be done. Raises InvalidRequest."""
        if refused := self.refused():
            raise not_supported(", ".join(refused))


class NewNetwork(NetworkBody):
    """``network`` at create."""

    allow_public_traffic: Annotated[StrictBool | None, Field(alias="allowPublicTraffic")] = None
    mask_request_host: Annotated[MaskHost | None, Field(alias="maskRequestHost")] = None


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
    network: Annotated[NewNetwork, BeforeValidator(lambda value: {} if value is None else value)] = Field(
        default_factory=NewNetwork
    )
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
                "mcp": bool(self.mcp),
                "iam": bool(self.iam),
                "volumeMounts": bool(self.volume_mounts),
            }.items()
            if asked
        ] + self.network.refused()
        if refused:
            raise not_supported(", ".join(refused))

    def wanted_network(self) -> Network:
        """The network that is asked for."""
        return Network(
            internet=self.allow_internet_access is not False,
            allow_out=self.network.allow_out,
            deny_out=self.network.deny_out,
            public_traffic=self.network.allow_public_traffic is not False,
            mask_host=self.network.mask_request_host,
        )


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


def _is_domain(entry: str) -> bool:
    """Whether a rule names a domain; what is neither that nor an address is refused for what it is."""
    host = entry.removeprefix("*.")
    return any(letter.isalpha() for letter in host) and ":" not in host


def not_supported(what: str) -> InvalidRequest:
    """The refusal of something these clients know and this platform does not have."""
    return InvalidRequest(f"not supported yet: {what}; send the request without it", code="not_supported")
