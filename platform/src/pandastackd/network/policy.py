"""The default network policy, as two nftables rule sets in nft's JSON form.

    guest ──tap0── [ slot: spoofing, IPv6, private ranges, DNS, NAT ] ── [ host: again, NAT ] ── internet
    guest ──ctl0── [ slot: answers to the host's own connections, nothing else ]

What a guest may do: open TCP, UDP and ICMP flows to the public internet, and ask port 53 of its gateway,
which is redirected to the configured resolvers. What it may not: speak IPv6 or another protocol, use a source
address that is not its own, reach another guest, any address of the host, private, link-local (cloud
metadata) or otherwise special ranges, or hold more than ``max_flows`` flows at once (flows cost kernel memory
that all slots share).

The host's table repeats the walls, and trusts nothing that comes out of a slot: should a VMM be broken out
of, its process stands inside the slot, behind the first wall but not the second. That table touches only
traffic that enters or leaves by our veths; other forwarding of the host stays as it is.

Each rule set is one transaction which replaces the table of the same name: there is no moment without policy.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Final

from pandastackd.errors import HostFailure
from pandastackd.network.addresses import (
    CONTROL_GUEST,
    CONTROL_HOST,
    CONTROL_TAP,
    DATA_GATEWAY,
    DATA_GUEST,
    DATA_TAP,
    GUEST_DNS,
    HOST_LINK_PREFIX,
    UPLINK,
    SlotAddresses,
)

TABLE: Final = "pandastack"
FAMILY: Final = "inet"
DNS_PORT: Final = 53

SPECIAL_RANGES: Final = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # "this network"
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier NAT; also used inside clouds
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local: cloud metadata
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; metadata on some clouds
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarking
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
"""Destinations that are not the public internet: no guest reaches them."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Policy:
    """What the rule sets are made from; the same for every slot of a host.

    Attributes:
        network: the /16 that all slots' outer addresses come from.
        resolvers: where guests' DNS goes; none means guests have no DNS.
        blocked: destinations no guest reaches.
        max_flows: how many flows one guest may have at once.
    """

    network: IPv4Network
    resolvers: tuple[IPv4Address, ...]
    blocked: tuple[IPv4Network, ...] = SPECIAL_RANGES
    max_flows: int = 4096

    def slot_rules(self, slot: SlotAddresses) -> str:
        """The rule set inside a slot's namespace."""
        rules = _RuleSet()
        rules.address_set("blocked", self._all_blocked())
        rules.chain("arrival", kind="filter", hook="prerouting", priority=-300, policy="accept")
        for tap, guest in ((DATA_TAP, DATA_GUEST), (CONTROL_TAP, CONTROL_GUEST)):
            rules.add("arrival", _arrives(tap), _is_not_ipv4(), DROP)
            rules.add("arrival", _arrives(tap), _source(guest, op="!="), DROP)
        rules.add("arrival", _arrives(CONTROL_TAP), _destination(CONTROL_HOST, op="!="), DROP)

        rules.chain("redirect_dns", kind="nat", hook="prerouting", priority=-100, policy="accept")
        if self.resolvers:
            for protocol in ("udp", "tcp"):
                rules.add(
                    "redirect_dns",
                    _arrives(DATA_TAP),
                    _destination(GUEST_DNS),
                    _port(protocol, DNS_PORT),
                    {"dnat": {"family": "ip", "addr": _spread(self.resolvers)}},
                )

        rules.plain_chain("admit")
        rules.add("admit", {"ct count": {"val": self.max_flows, "inv": True}}, DROP)
        rules.add("admit", ACCEPT)

        rules.chain("forward", kind="filter", hook="forward", priority=0, policy="drop")
        rules.add("forward", _flow("established", "related"), ACCEPT)
        rules.add("forward", _flow("new", op="!="), DROP)
        rules.add("forward", _arrives(DATA_TAP, op="!="), DROP)
        rules.add("forward", _leaves(UPLINK, op="!="), DROP)
        rules.add("forward", _protocols("tcp", "udp", "icmp", op="!="), DROP)
        if self.resolvers:
            rules.add("forward", _redirected_from(DATA_GATEWAY), {"jump": {"target": "admit"}})
        rules.add("forward", _destination("@blocked"), DROP)
        rules.add("forward", {"jump": {"target": "admit"}})

        rules.chain("input", kind="filter", hook="input", priority=0, policy="drop")
        rules.add("input", _arrives(CONTROL_TAP), _flow("established"), ACCEPT)

        rules.chain("output", kind="filter", hook="output", priority=0, policy="drop")
        rules.add("output", _leaves(CONTROL_TAP), _destination(CONTROL_GUEST), ACCEPT)
        rules.add("output", _flow("established", "related"), ACCEPT)

        rules.chain("departure", kind="nat", hook="postrouting", priority=100, policy="accept")
        rules.add("departure", _leaves(UPLINK), {"snat": {"family": "ip", "addr": str(slot.uplink_ip)}})
        return rules.text()

    def host_rules(self) -> str:
        """The rule set in the host's own namespace."""
        ours = f"{HOST_LINK_PREFIX}*"
        rules = _RuleSet()
        rules.address_set("blocked", self._all_blocked())
        rules.address_set("resolvers", self.resolvers)
        rules.chain("arrival", kind="filter", hook="prerouting", priority=-300, policy="accept")
        rules.add("arrival", _arrives(ours), _is_not_ipv4(), DROP)
        rules.add("arrival", _arrives(ours), _source(self.network, op="!="), DROP)
        rules.add("arrival", _arrives(ours), _not_by_its_own_link(), DROP)

        rules.plain_chain("from_slot")
        rules.add("from_slot", _leaves(ours), DROP)
        rules.add("from_slot", _flow("established", "related"), {"return": None})
        rules.add("from_slot", _flow("new", op="!="), DROP)
        for protocol in ("udp", "tcp"):
            rules.add("from_slot", _destination("@resolvers"), _port(protocol, DNS_PORT), {"return": None})
        rules.add("from_slot", _destination("@blocked"), DROP)

        rules.chain("forward", kind="filter", hook="forward", priority=-10, policy="accept")
        rules.add("forward", _arrives(ours), {"jump": {"target": "from_slot"}})
        rules.add("forward", _leaves(ours), _flow("established", "related", op="!="), DROP)

        rules.chain("input", kind="filter", hook="input", priority=-10, policy="accept")
        for protocol in ("udp", "tcp"):
            rules.add("input", _arrives(ours), _destination("@resolvers"), _port(protocol, DNS_PORT), ACCEPT)
        rules.add("input", _arrives(ours), _flow("established", "related", op="!="), DROP)

        rules.chain("departure", kind="nat", hook="postrouting", priority=100, policy="accept")
        rules.add("departure", _source(self.network), _leaves(ours, op="!="), {"masquerade": None})
        return rules.text()

    def _all_blocked(self) -> list[IPv4Network]:
        """``blocked`` and our own network, without the ranges that another one holds already."""
        wanted = {*self.blocked, self.network}
        return sorted(
            one for one in wanted if not any(one != other and one.subnet_of(other) for other in wanted)
        )


class _RuleSet:
    """Collects one table's content as nft JSON commands."""

    def __init__(self) -> None:
        table = {"table": {"family": FAMILY, "name": TABLE}}
        # Adding first makes the delete valid when there is no table yet.
        self._commands: list[Json] = [{"add": table}, {"delete": table}, {"add": table}]

    def address_set(self, name: str, elements: Iterable[IPv4Address | IPv4Network]) -> None:
        found = [_operand(element) for element in elements]
        body: Json = {
            "family": FAMILY,
            "table": TABLE,
            "name": name,
            "type": "ipv4_addr",
            "flags": ["interval"],
        }
        if found:
            body["elem"] = found
        self._commands.append({"add": {"set": body}})

    def chain(self, name: str, *, kind: str, hook: str, priority: int, policy: str) -> None:
        body = {"type": kind, "hook": hook, "prio": priority, "policy": policy}
        self._commands.append({"add": {"chain": {"family": FAMILY, "table": TABLE, "name": name, **body}}})

    def plain_chain(self, name: str) -> None:
        self._commands.append({"add": {"chain": {"family": FAMILY, "table": TABLE, "name": name}}})

    def add(self, chain: str, *statements: Json) -> None:
        rule = {"family": FAMILY, "table": TABLE, "chain": chain, "expr": list(statements)}
        self._commands.append({"add": {"rule": rule}})

    def text(self) -> str:
        return json.dumps({"nftables": self._commands})


ACCEPT: Final[Json] = {"accept": None}
DROP: Final[Json] = {"drop": None}


def _operand(value: IPv4Address | IPv4Network | str) -> Any:
    if isinstance(value, IPv4Network):
        return {"prefix": {"addr": str(value.network_address), "len": value.prefixlen}}
    return str(value)


def _match(left: Json, right: Any, op: str = "==") -> Json:
    return {"match": {"op": op, "left": left, "right": right}}


def _arrives(interface: str, op: str = "==") -> Json:
    return _match({"meta": {"key": "iifname"}}, interface, op)


def _leaves(interface: str, op: str = "==") -> Json:
    return _match({"meta": {"key": "oifname"}}, interface, op)


def _source(address: IPv4Address | IPv4Network, op: str = "==") -> Json:
    return _match({"payload": {"protocol": "ip", "field": "saddr"}}, _operand(address), op)


def _destination(address: IPv4Address | IPv4Network | str, op: str = "==") -> Json:
    return _match({"payload": {"protocol": "ip", "field": "daddr"}}, _operand(address), op)


def _port(protocol: str, port: int) -> Json:
    return _match({"payload": {"protocol": protocol, "field": "dport"}}, port)


def _protocols(*names: str, op: str = "==") -> Json:
    return _match({"meta": {"key": "l4proto"}}, {"set": list(names)}, op)


def _flow(*states: str, op: str = "==") -> Json:
    return _match({"ct": {"key": "state"}}, {"set": list(states)} if len(states) > 1 else states[0], op)


def _is_not_ipv4() -> Json:
    return _match({"meta": {"key": "nfproto"}}, "ipv4", "!=")


def _redirected_from(address: IPv4Address) -> Json:
    """A flow first sent to ``address``: one of our own, so that only redirected flows are ever forwarded."""
    return _match({"ct": {"key": "ip daddr", "dir": "original"}}, str(address))


def _not_by_its_own_link() -> Json:
    """The way back to the source is not the link it came by: a slot uses another slot's address."""
    return _match({"fib": {"result": "oif", "flags": ["saddr", "iif"]}}, False)


def _spread(addresses: Sequence[IPv4Address]) -> Any:
    """One address as it is; several in turn, a flow each."""
    if len(addresses) == 1:
        return str(addresses[0])
    turn = {"numgen": {"mode": "inc", "mod": len(addresses), "offset": 0}}
    return {"map": {"key": turn, "data": {"set": [[i, str(a)] for i, a in enumerate(addresses)]}}}


def apply_rules(rules: str, *, timeout_seconds: float = 10.0) -> None:
    """Load a rule set, all or nothing, into the namespace of the calling thread.

    Raises:
        HostFailure: nft is missing, too slow, or refuses; nothing has changed then.
    """
    try:
        done = subprocess.run(
            ["nft", "-j", "-f", "-"],
            input=rules,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_seconds,
        )
    except FileNotFoundError as error:
        raise HostFailure(
            "nft is not installed, so no guest could be walled in: install the package nftables",
            code="nftables_missing",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise HostFailure(
            f"nft did not finish within {timeout_seconds:.0f} s: the host is overloaded or its kernel stuck",
            code="nftables_failed",
        ) from error
    if done.returncode != 0:
        reason = " ".join((done.stderr or done.stdout).split())[:500]
        raise HostFailure(
            f"nft refused the network policy: {reason}; "
            "the kernel needs nf_tables with nat, ct, connlimit and fib",
            code="nftables_failed",
        )


def remove_rules() -> None:
    """Remove our table from the namespace of the calling thread. Idempotent.

    Raises:
        HostFailure: as for :func:`apply_rules`.
    """
    table = {"table": {"family": FAMILY, "name": TABLE}}
    apply_rules(json.dumps({"nftables": [{"add": table}, {"delete": table}]}))
