"""The rule sets as data: one transaction, nothing outside our table, and a complete list of blocked ranges.

What the rules do to packets is tested with packets, in ``tests/vm/test_network_policy.py``.
"""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from pandastackd.domain import SPECIAL_RANGES, Egress
from pandastackd.errors import Conflict
from pandastackd.network.addresses import AddressPlan
from pandastackd.network.host import Claim, check_free
from pandastackd.network.policy import Policy

NETWORK = IPv4Network("10.213.0.0/16")


def rule_sets(policy: Policy) -> list[list[dict[str, dict[str, dict[str, object]]]]]:
    texts = [policy.host_rules(), policy.slot_rules(AddressPlan(policy.network).slot(7))]
    return [json.loads(text)["nftables"] for text in texts]


def test_rules_replace_our_table_and_touch_no_other() -> None:
    for commands in rule_sets(Policy(NETWORK, (IPv4Address("192.0.2.53"),))):
        assert [next(iter(command)) for command in commands[:3]] == ["add", "delete", "add"]
        for command in commands:
            (body,) = next(iter(command.values())).values()
            assert body["family"] == "inet"
            assert body.get("table", body.get("name")) == "pandastack"


def test_without_resolvers_nothing_is_redirected() -> None:
    for commands in rule_sets(Policy(NETWORK, ())):
        assert "dnat" not in json.dumps(commands)


def test_a_network_outside_the_private_ranges_is_blocked_as_well() -> None:
    network = IPv4Network("100.0.0.0/16")
    for commands in rule_sets(Policy(network, ())):
        assert {"prefix": {"addr": "100.0.0.0", "len": 16}} in _blocked(commands)


def test_blocked_ranges_do_not_overlap_each_other() -> None:
    """nft refuses interval sets with overlapping elements."""
    policy = Policy(
        NETWORK, (), blocked=(*SPECIAL_RANGES, IPv4Network("10.1.0.0/16"), IPv4Network("192.0.2.0/24"))
    )
    ranges = [IPv4Network((e["prefix"]["addr"], e["prefix"]["len"])) for e in _blocked(rule_sets(policy)[0])]
    assert IPv4Network("192.0.2.0/24") in ranges
    assert not [(a, b) for a in ranges for b in ranges if a != b and a.overlaps(b)]


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.31.255.255", "192.168.1.1", "198.19.0.1",
     "192.0.0.192", "224.0.0.1", "255.255.255.255", "0.0.0.1"],
)  # fmt: skip
def test_special_addresses_are_in_a_blocked_range(address: str) -> None:
    assert any(IPv4Address(address) in one for one in SPECIAL_RANGES)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "100.63.255.255", "172.32.0.1", "223.255.255.255", "9.255.255.255"]
)
def test_public_addresses_are_not(address: str) -> None:
    assert not any(IPv4Address(address) in one for one in SPECIAL_RANGES)


def test_a_range_in_use_is_refused_by_name() -> None:
    claim = Claim(IPv4Network("10.213.4.0/24"), "route 10.213.4.0/24 by vpn0")
    with pytest.raises(
        Conflict, match=r"10\.213\.0\.0/16, overlaps route 10\.213\.4\.0/24 by vpn0.*PANDASTACK_NETWORK"
    ):
        check_free(NETWORK, [claim])


@pytest.mark.parametrize("route", ["0.0.0.0/0", "0.0.0.0/1", "192.168.0.0/16"])
def test_default_routes_and_other_ranges_are_no_claim(route: str) -> None:
    check_free(NETWORK, [Claim(IPv4Network(route), f"route {route} by wan7")])


def _blocked(commands: list[dict[str, dict[str, dict[str, object]]]]) -> list[dict[str, dict[str, object]]]:
    for command in commands:
        found = command.get("add", {}).get("set", {})
        if found.get("name") == "blocked":
            return found["elem"]  # type: ignore[return-value]
    raise AssertionError("no set of blocked ranges")


def _elements(commands: list[dict[str, Any]], name: str) -> list[Any]:
    (found,) = [
        body["elem"]
        for command in commands
        for kind, body in next(iter(command.values())).items()
        if kind in ("set", "element") and body["name"] == name and "elem" in body
    ]
    return found


def test_overlapping_and_adjacent_rules_become_sets_that_nft_takes() -> None:
    egress = Egress(
        ("192.0.2.0/25", "192.0.2.128/25", "192.0.2.1/32"), ("198.51.100.0/24", "198.51.100.7/32")
    )
    policy = Policy(NETWORK, ())
    for text in (policy.egress_rules(egress), policy.slot_rules(AddressPlan(NETWORK).slot(7), egress)):
        commands = json.loads(text)["nftables"]
        assert _elements(commands, "allowed") == [{"prefix": {"addr": "192.0.2.0", "len": 24}}]
        assert _elements(commands, "denied") == [{"prefix": {"addr": "198.51.100.0", "len": 24}}]


@pytest.mark.parametrize(
    ("deny", "named"),
    [((), True), (("10.0.0.0/8",), True), (("0.0.0.0/0",), False), (("0.0.0.0/1", "128.0.0.0/1"), False)],
)
def test_names_are_a_way_out_that_goes_when_everything_is_denied(deny: tuple[str, ...], named: bool) -> None:
    text = Policy(NETWORK, (IPv4Address("192.0.2.53"),)).egress_rules(Egress((), deny))
    assert ("10.200.0.1" in text) == named


def test_a_change_is_two_sets_and_nothing_else() -> None:
    commands = json.loads(Policy(NETWORK, ()).egress_rules(Egress()))["nftables"]
    assert [next(iter(command.items())) for command in commands] == [
        ("flush", {"set": {"family": "inet", "table": "pandastack", "name": name}})
        for name in ("allowed", "denied")
    ]
