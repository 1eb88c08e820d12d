"""The address plan: constants that every guest shares, and the numbering that tells slots apart.

Inside, every guest looks the same, so that one snapshot restores anywhere: same addresses, same MACs, and the
same MACs at the *host's* ends too (a restored guest still has them in its neighbour cache). Outside, slot
``n`` owns the ``n``-th /30 of one configurable /16, which holds exactly 16,384 of them: the first usable
address is the host's end of the veth pair, the second the slot's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Final

from pandastackd.errors import InvalidRequest

SLOT_COUNT: Final = 16_384
"""How many /30 subnets a /16 holds, and so how many slots one host can have."""

DATA_SUBNET: Final = IPv4Network("10.200.0.0/30")
DATA_GATEWAY: Final = IPv4Address("10.200.0.1")
DATA_GUEST: Final = IPv4Address("10.200.0.2")
CONTROL_SUBNET: Final = IPv4Network("169.254.77.0/30")
CONTROL_HOST: Final = IPv4Address("169.254.77.1")
CONTROL_GUEST: Final = IPv4Address("169.254.77.2")
GUEST_DNS: Final = DATA_GATEWAY
"""What a guest has as its resolver; port 53 there is redirected to the real ones."""

DATA_GUEST_MAC: Final = "02:50:53:00:00:02"
DATA_HOST_MAC: Final = "02:50:53:00:00:01"
CONTROL_GUEST_MAC: Final = "02:50:53:00:01:02"
CONTROL_HOST_MAC: Final = "02:50:53:00:01:01"

DATA_TAP: Final = "tap0"
CONTROL_TAP: Final = "ctl0"
UPLINK: Final = "uplink"
HOST_LINK_PREFIX: Final = "psv"
NAMESPACE_PREFIX: Final = "ps-"

PUBLIC_AGENT_PORT: Final = 49_983
CONTROL_AGENT_PORT: Final = 49_984

_NUMBER = r"(0|[1-9][0-9]{0,4})"


def guest_network_arguments() -> str:
    """The kernel command line's part about the network; guest-init reads it at boot."""
    prefix = DATA_SUBNET.prefixlen
    return (
        f"pandastack.data={DATA_GUEST}/{prefix},{DATA_GATEWAY} "
        f"pandastack.control={CONTROL_GUEST}/{CONTROL_SUBNET.prefixlen} "
        f"pandastack.dns={GUEST_DNS}"
    )


@dataclass(frozen=True, slots=True)
class SlotAddresses:
    """Names and addresses of one slot, all derived from its number."""

    number: int
    subnet: IPv4Network

    @property
    def namespace(self) -> str:
        """Name of the network namespace, as in ``ip netns exec <name>``."""
        return f"{NAMESPACE_PREFIX}{self.number}"

    @property
    def host_link(self) -> str:
        """Name of the veth end in the host's namespace."""
        return f"{HOST_LINK_PREFIX}{self.number}"

    @property
    def host_ip(self) -> IPv4Address:
        """Address of the host's end of the veth pair."""
        return self.subnet[1]

    @property
    def uplink_ip(self) -> IPv4Address:
        """Address of the slot's end; everything a guest sends leaves under it."""
        return self.subnet[2]

    @property
    def host_interface(self) -> IPv4Interface:
        """``host_ip`` with its prefix length."""
        return IPv4Interface((self.host_ip, self.subnet.prefixlen))

    @property
    def uplink_interface(self) -> IPv4Interface:
        """``uplink_ip`` with its prefix length."""
        return IPv4Interface((self.uplink_ip, self.subnet.prefixlen))


@dataclass(frozen=True, slots=True)
class AddressPlan:
    """The configurable /16 and how it is cut.

    Raises:
        InvalidRequest: the network is not a /16, or holds the addresses that guests have inside.
    """

    network: IPv4Network

    def __post_init__(self) -> None:
        if self.network.prefixlen != 16:
            raise InvalidRequest(
                f"the network setting is {self.network}: it must be a /16, which holds {SLOT_COUNT} slots; "
                "set PANDASTACK_NETWORK to one that your own network does not use"
            )
        for inner in (DATA_SUBNET, CONTROL_SUBNET):
            if self.network.overlaps(inner):
                raise InvalidRequest(
                    f"the network setting {self.network} holds {inner}, which guests use inside; "
                    "set PANDASTACK_NETWORK to another /16"
                )

    def slot(self, number: int) -> SlotAddresses:
        """Names and addresses of slot ``number``.

        Raises:
            ValueError: no such slot number.
        """
        if not 0 <= number < SLOT_COUNT:
            raise ValueError(f"slot number {number} is outside 0..{SLOT_COUNT - 1}")
        first = int(self.network.network_address) + 4 * number
        return SlotAddresses(number, IPv4Network((first, 30)))


def slot_number(name: str) -> int | None:
    """The slot whose namespace or host link is called ``name``; None when the name is not one of ours."""
    match = re.fullmatch(f"(?:{NAMESPACE_PREFIX}|{HOST_LINK_PREFIX}){_NUMBER}", name)
    if match is None or int(match[1]) >= SLOT_COUNT:
        return None
    return int(match[1])
