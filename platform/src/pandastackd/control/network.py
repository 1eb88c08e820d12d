"""What a sandbox's network may do: where it may connect to, and who may reach it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Final, Self

from pandastackd.config import Settings
from pandastackd.domain import SPECIAL_RANGES, Egress
from pandastackd.errors import InvalidRequest

MAX_RULES = 256
EVERYTHING: Final = IPv4Network("0.0.0.0/0")


@dataclass(frozen=True, slots=True)
class Network:
    """A sandbox's network, as its owner asked for it.

    Attributes:
        internet: ``False`` denies everything that is not allowed by name.
        allow_out: addresses and networks that may be reached, even where ``deny_out`` holds them too.
        deny_out: addresses and networks that may not.
        public_traffic: ``False`` demands the sandbox's traffic token of whoever sends to its ports.
        mask_host: the ``Host`` that servers in the sandbox see; ``${PORT}`` in it is the port.
    """

    internet: bool = True
    allow_out: tuple[str, ...] = ()
    deny_out: tuple[str, ...] = ()
    public_traffic: bool = True
    mask_host: str | None = None

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Self:
        """The network that a row keeps."""
        values: dict[str, Any] = {
            name: tuple(found) if isinstance(found, list) else found for name, found in kept.items()
        }
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """What a row keeps."""
        return asdict(self)

    def egress(self, settings: Settings) -> Egress:
        """Where the sandbox may connect to.

        Raises:
            InvalidRequest: something is no address, is closed to every sandbox, or would change nothing; says which.
        """
        deny = [net for net in _parsed("deny_out", self.deny_out) if isinstance(net, IPv4Network)]
        if not self.internet:
            deny.append(EVERYTHING)
        allow = []
        for net in _parsed("allow_out", self.allow_out):
            if isinstance(net, IPv6Network):
                raise InvalidRequest(
                    f"allow_out: {net} is IPv6, which sandboxes do not speak", code="invalid_network"
                )
            opened = _within(net, settings.openable_networks)
            if _within(net, (*SPECIAL_RANGES, settings.network)) and not opened:
                raise InvalidRequest(
                    f"allow_out: {net} is a private or special range, closed to every sandbox; an operator can open "
                    "it with PANDASTACK_OPENABLE_NETWORKS",
                    code="network_closed",
                )
            if not deny and not opened and net != EVERYTHING:
                raise InvalidRequest(
                    f"allow_out: {net} is reached anyway, since nothing is denied; to allow nothing else, also send "
                    "deny_out: ['0.0.0.0/0']",
                    code="invalid_network",
                )
            allow.append(net)
        return Egress(tuple(map(str, allow)), tuple(map(str, deny)))


def _parsed(field: str, entries: Iterable[str]) -> list[IPv4Network | IPv6Network]:
    found = []
    for entry in entries:
        try:
            found.append(ip_network(entry, strict=False))
        except ValueError:
            raise InvalidRequest(
                f"{field}: {entry!r} is not an address or network such as 192.0.2.0/24; domain names are not "
                "supported",
                code="invalid_network",
            ) from None
    if len(found) > MAX_RULES:
        raise InvalidRequest(f"{field} has {len(found)} entries, at most {MAX_RULES}", code="invalid_network")
    return found


def _within(net: IPv4Network, ranges: Iterable[IPv4Network]) -> bool:
    return any(net.subnet_of(one) for one in ranges)
