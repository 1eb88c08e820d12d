"""The default network policy, as two nftables rule sets in nft's JSON form.

    guest ──tap0── [ slot: spoofing, IPv6, private ranges, DNS, NAT ] ── [ host: again, NAT ] ── internet
    guest ──ctl0── [ slot: answers to the host's own connections, nothing else ]

What a guest may do: open TCP, UDP and ICMP flows to the public internet, and ask port 53 of its gateway,
which is redirected to the configured resolvers. What it may not: speak IPv6 or another protocol, use a source
address that is not its own, reach another guest, any address of the host, private, link-local (cloud
metadata) or otherwise special ranges, or hold more than ``max_flows`` flows at once (flows cost kernel memory
that all slots share).

A sandbox may have less than that, or a private range that the operator lets it have: its ``Egress``, the content of two
sets in its slot. They are asked about every packet of every flow, by where the flow was first sent, so changing them is
one transaction and also ends flows that were open.

The host's table repeats the walls, and trusts nothing that comes out of a slot: should a VMM be broken out
of, its process stands inside the slot, behind the first wall but not the second. That table touches only
traffic that enters or leaves by our veths; other forwarding of the host stays as it is.

Each rule set is one transaction which replaces the table of the same name: there is no moment without policy.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, collapse_addresses
from typing import Final

from pandastackd.domain import SPECIAL_RANGES, Egress
from pandastackd.errors import HostFailure
from pandastackd.network.addresses import (
    CONTROL_GUEST,
    CONTROL_HOST,
    CONTROL_TAP,
    DATA_GUEST,
    DATA_TAP,
    GUEST_DNS,
    HOST_LINK_PREFIX,
    UPLINK,
    SlotAddresses,
)
from pandastackd.network.nft import (
    ACCEPT,
    DROP,
    FAMILY,
    REJECT,
    TABLE,
    RuleSet,
    arrives,
    destination,
    first_sent_to,
    flow,
    is_not_ipv4,
    leaves,
    not_by_its_own_link,
    port,
    protocols,
    replace_elements,
    source,
    spread,
)

DNS_PORT: Final = 53
EVERYTHING: Final = IPv4Network("0.0.0.0/0")
EVERYWHERE: Final = Egress()


@dataclass(frozen=True, slots=True)
class Policy:
    """What the rule sets are made from; the same for every slot of a host.

    Attributes:
        network: the /16 that all slots' outer addresses come from.
        resolvers: where guests' DNS goes; none means guests have no DNS.
        blocked: destinations no guest reaches.
        openable: parts of them that a guest does reach whose own egress allows it.
        max_flows: how many flows one guest may have at once.
    """

    network: IPv4Network
    resolvers: tuple[IPv4Address, ...]
    blocked: tuple[IPv4Network, ...] = SPECIAL_RANGES
    openable: tuple[IPv4Network, ...] = ()
    max_flows: int = 4096

    def slot_rules(self, slot: SlotAddresses, egress: Egress = EVERYWHERE) -> str:
        """The rule set inside a slot's namespace, for a guest that may reach ``egress``."""
        rules = RuleSet()
        rules.address_set("blocked", self._all_blocked())
        rules.address_set("openable", collapse_addresses([*self.openable, IPv4Network(GUEST_DNS)]))
        for name, elements in self._egress_sets(egress).items():
            rules.address_set(name, elements)
        rules.chain("arrival", kind="filter", hook="prerouting", priority=-300, policy="accept")
        for tap, guest in ((DATA_TAP, DATA_GUEST), (CONTROL_TAP, CONTROL_GUEST)):
            rules.add("arrival", arrives(tap), is_not_ipv4(), DROP)
            rules.add("arrival", arrives(tap), source(guest, op="!="), DROP)
        rules.add("arrival", arrives(CONTROL_TAP), destination(CONTROL_HOST, op="!="), DROP)

        rules.chain("redirect_dns", kind="nat", hook="prerouting", priority=-100, policy="accept")
        if self.resolvers:
            for protocol in ("udp", "tcp"):
                rules.add(
                    "redirect_dns",
                    arrives(DATA_TAP),
                    destination(GUEST_DNS),
                    port(protocol, DNS_PORT),
                    {"dnat": {"family": "ip", "addr": spread(self.resolvers)}},
                )

        rules.plain_chain("admit")
        rules.add("admit", {"ct count": {"val": self.max_flows, "inv": True}}, DROP)
        rules.add("admit", ACCEPT)

        rules.plain_chain("egress")
        rules.add("egress", first_sent_to("@allowed"), first_sent_to("@openable"), {"return": None})
        # The guest is told, so that its programs fail at once; nobody outside is. Looking up a name is what they do
        # first, and would be done in vain for 20 seconds.
        rules.add("egress", arrives(DATA_TAP), first_sent_to(GUEST_DNS), REJECT)
        rules.add("egress", first_sent_to("@blocked"), DROP)
        rules.add("egress", first_sent_to("@allowed"), {"return": None})
        rules.add("egress", arrives(DATA_TAP), first_sent_to("@denied"), REJECT)
        rules.add("egress", first_sent_to("@denied"), DROP)

        rules.chain("forward", kind="filter", hook="forward", priority=0, policy="drop")
        rules.add("forward", {"jump": {"target": "egress"}})
        rules.add("forward", flow("established", "related"), ACCEPT)
        rules.add("forward", flow("new", op="!="), DROP)
        rules.add("forward", arrives(DATA_TAP, op="!="), DROP)
        rules.add("forward", leaves(UPLINK, op="!="), DROP)
        rules.add("forward", protocols("tcp", "udp", "icmp", op="!="), DROP)
        rules.add("forward", {"jump": {"target": "admit"}})

        rules.chain("input", kind="filter", hook="input", priority=0, policy="drop")
        rules.add("input", arrives(CONTROL_TAP), flow("established"), ACCEPT)

        rules.chain("output", kind="filter", hook="output", priority=0, policy="drop")
        rules.add("output", leaves(CONTROL_TAP), destination(CONTROL_GUEST), ACCEPT)
        rules.add("output", flow("established", "related"), ACCEPT)

        rules.chain("departure", kind="nat", hook="postrouting", priority=100, policy="accept")
        rules.add("departure", leaves(UPLINK), {"snat": {"family": "ip", "addr": str(slot.uplink_ip)}})
        return rules.text()

    def host_rules(self) -> str:
        """The rule set in the host's own namespace."""
        ours = f"{HOST_LINK_PREFIX}*"
        rules = RuleSet()
        rules.address_set("blocked", self._all_blocked())
        rules.address_set("openable", collapse_addresses(self.openable))
        rules.address_set("resolvers", self.resolvers)
        rules.chain("arrival", kind="filter", hook="prerouting", priority=-300, policy="accept")
        rules.add("arrival", arrives(ours), is_not_ipv4(), DROP)
        rules.add("arrival", arrives(ours), source(self.network, op="!="), DROP)
        rules.add("arrival", arrives(ours), not_by_its_own_link(), DROP)

        rules.plain_chain("from_slot")
        rules.add("from_slot", leaves(ours), DROP)
        rules.add("from_slot", flow("established", "related"), {"return": None})
        rules.add("from_slot", flow("new", op="!="), DROP)
        for protocol in ("udp", "tcp"):
            rules.add("from_slot", destination("@resolvers"), port(protocol, DNS_PORT), {"return": None})
        rules.add("from_slot", destination("@openable"), {"return": None})
        rules.add("from_slot", destination("@blocked"), DROP)

        rules.chain("forward", kind="filter", hook="forward", priority=-10, policy="accept")
        rules.add("forward", arrives(ours), {"jump": {"target": "from_slot"}})
        rules.add("forward", leaves(ours), flow("established", "related", op="!="), DROP)

        rules.chain("input", kind="filter", hook="input", priority=-10, policy="accept")
        for protocol in ("udp", "tcp"):
            rules.add("input", arrives(ours), destination("@resolvers"), port(protocol, DNS_PORT), ACCEPT)
        rules.add("input", arrives(ours), flow("established", "related", op="!="), DROP)

        rules.chain("departure", kind="nat", hook="postrouting", priority=100, policy="accept")
        rules.add("departure", source(self.network), leaves(ours, op="!="), {"masquerade": None})
        return rules.text()

    def egress_rules(self, egress: Egress) -> str:
        """What gives a slot that is in use another egress; flows that it no longer allows end with it."""
        sets = self._egress_sets(egress).items()
        return json.dumps(
            {"nftables": [c for name, elements in sets for c in replace_elements(name, elements)]}
        )

    def _egress_sets(self, egress: Egress) -> dict[str, list[IPv4Network]]:
        denied = list(collapse_addresses(map(IPv4Network, egress.deny)))
        allowed = [IPv4Network(one) for one in egress.allow]
        # Names are a way out too: whoever is denied everything gets no DNS, unless it is allowed by its address.
        if self.resolvers and EVERYTHING not in denied:
            allowed.append(IPv4Network(GUEST_DNS))
        return {"allowed": list(collapse_addresses(allowed)), "denied": denied}

    def _all_blocked(self) -> list[IPv4Network]:
        """``blocked`` and our own network, without the ranges that another one holds already."""
        wanted = {*self.blocked, self.network}
        return sorted(
            one for one in wanted if not any(one != other and one.subnet_of(other) for other in wanted)
        )


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
            "the kernel needs nf_tables with nat, ct, connlimit, reject and fib",
            code="nftables_failed",
        )


def remove_rules() -> None:
    """Remove our table from the namespace of the calling thread. Idempotent.

    Raises:
        HostFailure: as for :func:`apply_rules`.
    """
    table = {"table": {"family": FAMILY, "name": TABLE}}
    apply_rules(json.dumps({"nftables": [{"add": table}, {"delete": table}]}))
