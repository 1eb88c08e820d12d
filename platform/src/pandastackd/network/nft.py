"""nftables in its JSON form: the words that the policy is written in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Final

TABLE: Final = "pandastack"
FAMILY: Final = "inet"

Json = dict[str, Any]


class RuleSet:
    """Collects one table's content as nft JSON commands: one transaction, which replaces the table."""

    def __init__(self) -> None:
        table = {"table": {"family": FAMILY, "name": TABLE}}
        # Adding first makes the delete valid when there is no table yet.
        self._commands: list[Json] = [{"add": table}, {"delete": table}, {"add": table}]

    def address_set(self, name: str, elements: Iterable[IPv4Address | IPv4Network]) -> None:
        """A set of addresses and networks; they must not overlap."""
        found = [operand(element) for element in elements]
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
        """A chain that a hook leads into."""
        body = {"type": kind, "hook": hook, "prio": priority, "policy": policy}
        self._commands.append({"add": {"chain": {"family": FAMILY, "table": TABLE, "name": name, **body}}})

    def plain_chain(self, name: str) -> None:
        """A chain that other chains jump to."""
        self._commands.append({"add": {"chain": {"family": FAMILY, "table": TABLE, "name": name}}})

    def add(self, chain: str, *statements: Json) -> None:
        """A rule at the end of a chain."""
        rule = {"family": FAMILY, "table": TABLE, "chain": chain, "expr": list(statements)}
        self._commands.append({"add": {"rule": rule}})

    def text(self) -> str:
        """The commands as nft reads them."""
        return json.dumps({"nftables": self._commands})


ACCEPT: Final[Json] = {"accept": None}
DROP: Final[Json] = {"drop": None}
REJECT: Final[Json] = {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}


def operand(value: IPv4Address | IPv4Network | str) -> Any:
    """A value as nft's JSON spells it."""
    if isinstance(value, IPv4Network):
        return {"prefix": {"addr": str(value.network_address), "len": value.prefixlen}}
    return str(value)


def match(left: Json, right: Any, op: str = "==") -> Json:
    """A comparison."""
    return {"match": {"op": op, "left": left, "right": right}}


def arrives(interface: str, op: str = "==") -> Json:
    """By which interface a packet came."""
    return match({"meta": {"key": "iifname"}}, interface, op)


def leaves(interface: str, op: str = "==") -> Json:
    """By which interface a packet goes."""
    return match({"meta": {"key": "oifname"}}, interface, op)


def source(address: IPv4Address | IPv4Network, op: str = "==") -> Json:
    """Where a packet comes from."""
    return match({"payload": {"protocol": "ip", "field": "saddr"}}, operand(address), op)


def destination(address: IPv4Address | IPv4Network | str, op: str = "==") -> Json:
    """Where a packet goes, or, of a set, whether it goes there."""
    return match({"payload": {"protocol": "ip", "field": "daddr"}}, operand(address), op)


def port(protocol: str, port: int) -> Json:
    """The port a packet goes to."""
    return match({"payload": {"protocol": protocol, "field": "dport"}}, port)


def protocols(*names: str, op: str = "==") -> Json:
    """The protocol above IP."""
    return match({"meta": {"key": "l4proto"}}, {"set": list(names)}, op)


def flow(*states: str, op: str = "==") -> Json:
    """The state of a packet's flow."""
    return match({"ct": {"key": "state"}}, {"set": list(states)} if len(states) > 1 else states[0], op)


def is_not_ipv4() -> Json:
    """Anything that is not IPv4."""
    return match({"meta": {"key": "nfproto"}}, "ipv4", "!=")


def first_sent_to(target: IPv4Address | str) -> Json:
    """A packet, in either direction, of a flow that was first sent to an address, or to one in a set.

    Redirected flows are known by it; and a set that changes decides anew about the flows that are open.
    """
    return match({"ct": {"key": "ip daddr", "dir": "original"}}, str(target))


def replace_elements(name: str, elements: Iterable[IPv4Address | IPv4Network]) -> list[Json]:
    """Commands that put other addresses into a set that is there."""
    place = {"family": FAMILY, "table": TABLE, "name": name}
    found = [operand(element) for element in elements]
    added: list[Json] = [{"add": {"element": {**place, "elem": found}}}] if found else []
    return [{"flush": {"set": place}}, *added]


def not_by_its_own_link() -> Json:
    """The way back to the source is not the link it came by: a slot uses another slot's address."""
    return match({"fib": {"result": "oif", "flags": ["saddr", "iif"]}}, False)


def spread(addresses: Sequence[IPv4Address]) -> Any:
    """One address as it is; several in turn, a flow each."""
    if len(addresses) == 1:
        return str(addresses[0])
    turn = {"numgen": {"mode": "inc", "mod": len(addresses), "offset": 0}}
    return {"map": {"key": turn, "data": {"set": [[i, str(a)] for i, a in enumerate(addresses)]}}}
