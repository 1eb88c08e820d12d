"""What the network room needs of the host: a free /16, forwarding, and no DROP of others in the way."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_network
from pathlib import Path
from typing import Any, Final

from pyroute2.iproute.linux import IPRoute

from pandastackd.errors import Conflict, HostFailure
from pandastackd.network.addresses import HOST_LINK_PREFIX, slot_number
from pandastackd.network.nft import TABLE

FORWARDING: Final = Path("/proc/sys/net/ipv4/ip_forward")
LOCK: Final = Path("/run/pandastack/network.lock")

_UNICAST = 1
_WIDEST_CLAIM = 8
"""Routes wider than a /8 are default routes, or halves of one as VPNs set them: no claim to the range."""


class NetworkLock:
    """One agent a host: another one's start would take this one's slots for leftovers and remove them.

    Held by the process; the kernel lets go of it when the process dies.
    """

    def __init__(self, path: Path = LOCK) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            Conflict: another process holds it; the message has its pid.
        """
        self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise Conflict(
                f"another agent (pid {holder}) owns the network slots of this host, and only one can: "
                "stop it first",
                code="agent_running",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go. Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A range that the host already uses: an address on an interface, or a route."""

    range: IPv4Network
    what: str


def host_claims() -> list[Claim]:
    """Every IPv4 range that an address or a route of the host claims, our own links left out."""
    found: list[Claim] = []
    with IPRoute() as netlink:
        names: dict[int, str] = {link["index"]: link.get("ifname", "?") for link in netlink.get_links()}
        ours = {index for index, name in names.items() if slot_number(name) is not None}
        for entry in netlink.get_addr(family=2):
            if entry["index"] not in ours:
                found += _claims_of_address(entry, names.get(entry["index"], "?"))
        for entry in netlink.get_routes(family=2):
            if entry["type"] == _UNICAST and entry.get("oif") not in ours:
                target = _network(entry.get("dst") or "0.0.0.0", entry["dst_len"])  # noqa: S104  not a bind
                name = names.get(entry.get("oif") or -1, "several links")
                found.append(Claim(target, f"route {target} by {name}"))
    return found


def _claims_of_address(entry: Any, name: str) -> list[Claim]:
    """One claim; two for a point-to-point address, which names the far end as well."""
    near, far = entry.get("local"), entry.get("address")
    found = []
    if near is not None and near != far:
        found.append(Claim(_network(near, 32), f"address {near} on {name}"))
    if far is not None:
        found.append(
            Claim(_network(far, entry["prefixlen"]), f"address {far}/{entry['prefixlen']} on {name}")
        )
    return found


def _network(address: Any, prefix: int) -> IPv4Network:
    network = ip_network(f"{address}/{prefix}", strict=False)
    if not isinstance(network, IPv4Network):
        raise TypeError(f"{address} is not IPv4")
    return network


def check_free(network: IPv4Network, claims: list[Claim]) -> None:
    """Refuse a slot network that the host uses for something else.

    Raises:
        Conflict: names the network, the claim that overlaps it, and the setting to change.
    """
    for claim in claims:
        if claim.range.prefixlen >= _WIDEST_CLAIM and claim.range.overlaps(network):
            raise Conflict(
                f"the network for slots, {network}, overlaps {claim.what} of this host: "
                "set PANDASTACK_NETWORK to a /16 that is in no use here",
                code="network_collision",
            )


def enable_forwarding() -> bool:
    """Let the host forward IPv4, without which no guest reaches the internet.

    The switch is for the whole host, as answers come in by whatever uplink has the route. It stays on when
    the agent stops, as VMMs outlive the agent.

    Returns:
        Whether it had to be changed.

    Raises:
        HostFailure: the kernel does not allow it.
    """
    if FORWARDING.read_text().strip() == "1":
        return False
    try:
        FORWARDING.write_text("1")
    except OSError as error:
        raise HostFailure(
            f"cannot switch on IPv4 forwarding ({error.strerror}): guests would have no internet; "
            "run `sysctl -w net.ipv4.ip_forward=1` on the host",
            code="forwarding_refused",
        ) from error
    return True


def foreign_forward_drops() -> list[str]:
    """Firewalls of others that drop forwarded packets by default, and so may cut guests off.

    Docker is the usual one. An ``accept`` of ours cannot overrule another table's ``drop``: the operator has
    to allow forwarding from and to ``psv*`` there.

    Returns:
        One line each, for ``doctor``; empty when there is none, or no nft to ask.
    """
    try:
        done = subprocess.run(
            ["nft", "-j", "list", "chains"], capture_output=True, text=True, check=True, timeout=10
        )
        chains = [item["chain"] for item in json.loads(done.stdout)["nftables"] if "chain" in item]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        return []
    return [
        f"table {chain['family']} {chain['table']}, chain {chain['name']} drops packets by default: "
        f"guests have no internet unless it accepts packets from and to {HOST_LINK_PREFIX}*"
        for chain in chains
        if chain.get("hook") == "forward" and chain.get("policy") == "drop" and chain["table"] != TABLE
    ]


def resolver_claim(address: IPv4Address) -> Claim:
    """A DNS server as a claim to its address: it must not lie in the slots' network."""
    return Claim(IPv4Network((address, 32)), f"DNS server {address}")
