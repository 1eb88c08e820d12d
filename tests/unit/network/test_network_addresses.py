"""The address plan: a /30 a slot, names that lead back to numbers, fixed arguments for the guest."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pandastackd.errors import InvalidRequest
from pandastackd.network import addresses
from pandastackd.network.addresses import SLOT_COUNT, AddressPlan, guest_network_arguments, slot_number

numbers = st.integers(0, SLOT_COUNT - 1)
networks = st.integers(0, 2**16 - 1).map(lambda high: IPv4Network((high << 16, 16)))
inner = [addresses.DATA_SUBNET, addresses.CONTROL_SUBNET]
usable = networks.filter(lambda network: not any(network.overlaps(one) for one in inner))


@given(usable, numbers, numbers)
def test_no_two_slots_share_an_address(network: IPv4Network, one: int, other: int) -> None:
    plan = AddressPlan(network)
    first, second = plan.slot(one), plan.slot(other)
    assert first.subnet.subnet_of(network)
    assert {first.host_ip, first.uplink_ip} == set(first.subnet.hosts())
    assert first.subnet.overlaps(second.subnet) == (one == other)


@given(numbers)
def test_names_lead_back_to_the_number(number: int) -> None:
    slot = AddressPlan(IPv4Network("10.213.0.0/16")).slot(number)
    assert slot_number(slot.namespace) == number
    assert slot_number(slot.host_link) == number
    assert len(slot.host_link) <= 15  # the kernel's limit for interface names


def test_the_last_slot_ends_with_the_network() -> None:
    last = AddressPlan(IPv4Network("10.213.0.0/16")).slot(SLOT_COUNT - 1)
    assert last.subnet == IPv4Network("10.213.255.252/30")


@pytest.mark.parametrize(
    "name", ["ps-", "ps-01", "ps--1", "ps-16384", "psv", "psv1x", "xpsv1", "ps-1\n", "ps-٣", "eth0"]
)
def test_foreign_names_are_not_ours(name: str) -> None:
    assert slot_number(name) is None


@pytest.mark.parametrize("number", [-1, SLOT_COUNT])
def test_numbers_outside_the_plan_are_refused(number: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        AddressPlan(IPv4Network("10.213.0.0/16")).slot(number)


@pytest.mark.parametrize("network", ["10.213.0.0/24", "10.0.0.0/8", "10.200.0.0/16", "169.254.0.0/16"])
def test_unusable_networks_are_refused_and_the_setting_named(network: str) -> None:
    with pytest.raises(InvalidRequest, match="PANDASTACK_NETWORK"):
        AddressPlan(IPv4Network(network))


def test_guest_arguments() -> None:
    assert guest_network_arguments() == (
        "pandastack.data=10.200.0.2/30,10.200.0.1 pandastack.control=169.254.77.2/30 "
        "pandastack.dns=10.200.0.1"
    )
    assert IPv4Address("10.200.0.1") == addresses.GUEST_DNS
