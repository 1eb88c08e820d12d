"""Make, check and remove one slot in the kernel. Blocking; each call is for a thread of its own.

                       slot namespace ps-<n>                                   host
    VMM ── tap0  10.200.0.1/30   ┐
                                 ├ forward, NAT ── uplink .2/30 ═══ psv<n> .1/30 ── NAT ── uplinks
    VMM ── ctl0  169.254.77.1/30 ┘ (never forwarded)

Order of making: the namespace gets its policy while it has neither a name nor a way out; then the name, then
the veth pair, then addresses. Killed before the name, nothing is left, as the namespace dies with its
process. Killed later, the name or the host's link is left, and :meth:`SlotMaker.leftovers` finds either. A
slot is never connected without policy.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from pandastackd.domain import Egress
from pandastackd.errors import HostFailure, PlatformError
from pandastackd.network import namespace
from pandastackd.network.addresses import (
    CONTROL_GUEST,
    CONTROL_GUEST_MAC,
    CONTROL_HOST,
    CONTROL_HOST_MAC,
    CONTROL_SUBNET,
    CONTROL_TAP,
    DATA_GATEWAY,
    DATA_GUEST,
    DATA_GUEST_MAC,
    DATA_HOST_MAC,
    DATA_SUBNET,
    DATA_TAP,
    HOST_LINK_PREFIX,
    NAMESPACE_PREFIX,
    UPLINK,
    AddressPlan,
    SlotAddresses,
    slot_number,
)
from pandastackd.network.netlink import Batch, interface_index, interface_names
from pandastackd.network.policy import Policy, apply_rules
from pandastackd.network.taps import make_tap

# Indexes are per namespace, and a new one has only its loopback: with fixed ones no look-up is needed.
_DATA_INDEX: Final = 10
_CONTROL_INDEX: Final = 11
_UPLINK_INDEX: Final = 12

_PERMANENT: Final = 0x80
_SYSCTL: Final = Path("/proc/sys/net")

_SLOT_SETTINGS: Final = (
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
    ("ipv4/conf/all/forwarding", "0"),
    ("ipv4/conf/default/forwarding", "0"),
    ("ipv4/conf/all/rp_filter", "1"),
    ("ipv4/conf/all/arp_ignore", "1"),
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/conf/all/accept_source_route", "0"),
)
_FORWARDING_LINKS: Final = (DATA_TAP, UPLINK)

Step = Callable[[str], None]


class SlotMaker:
    """Makes slots in the namespace of the thread that constructs it, which is the host's.

    Args:
        plan: how numbers become addresses.
        policy: the rules of every slot.
        uid_base: taps of slot n belong to this user id + n.
        on_step: told the name of every step before it is done; for tracing, and for tests that break things.
    """

    def __init__(
        self, plan: AddressPlan, policy: Policy, *, uid_base: int, on_step: Step | None = None
    ) -> None:
        self._plan = plan
        self._policy = policy
        self._uid_base = uid_base
        self._step: Step = on_step or (lambda _: None)
        self._host = os.open(namespace.OWN_NETNS, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of the host's namespace. Idempotent."""
        if self._host >= 0:
            os.close(self._host)
            self._host = -1

    def netns(self, number: int) -> Path:
        """Where the namespace of slot ``number`` has its name."""
        return namespace.NETNS_DIR / self._plan.slot(number).namespace

    def make(self, number: int) -> None:
        """Make slot ``number``, whole or not at all. Moves the calling thread to another namespace.

        Raises:
            HostFailure: the kernel or nft refused a step; what was made before it is removed again.
        """
        slot = self._plan.slot(number)
        try:
            self._make_inside(slot)
            namespace.enter(self._host)
            self._make_outside(slot)
        except BaseException as error:
            # The cause is what matters; a failing clean-up is made good by the next start.
            with contextlib.suppress(OSError, PlatformError):
                namespace.enter(self._host)
                self.remove(number)
            if isinstance(error, OSError):
                raise HostFailure(
                    f"network slot {number} could not be made: {error.strerror or error}; "
                    "run `pandastackd doctor`",
                    code="network_failed",
                ) from error
            raise

    def _make_inside(self, slot: SlotAddresses) -> None:
        self._step("make namespace")
        namespace.leave_for_new_namespace()
        _write_settings(_SLOT_SETTINGS)
        self._step("make taps")
        owner = self._uid_base + slot.number
        make_tap(DATA_TAP, index=_DATA_INDEX, owner=owner)
        make_tap(CONTROL_TAP, index=_CONTROL_INDEX, owner=owner)
        self._step("apply policy")
        apply_rules(self._policy.slot_rules(slot))
        self._step("name namespace")
        namespace.publish(namespace.NETNS_DIR / slot.namespace)
        self._step("make veth pair")
        with Batch() as batch:
            batch.link(
                f"make the veth pair {slot.host_link}",
                "add",
                ifname=UPLINK,
                index=_UPLINK_INDEX,
                kind="veth",
                peer={"ifname": slot.host_link, "net_ns_fd": self._host},
            )
            batch.send()
            _write_settings((f"ipv4/conf/{name}/forwarding", "1") for name in _FORWARDING_LINKS)
            self._step("address the slot")
            _configure_slot(batch, slot)
            batch.send()

    def _make_outside(self, slot: SlotAddresses) -> None:
        self._step("address the host's end")
        name = slot.host_link
        index = interface_index(name)
        if index is None:
            raise HostFailure(f"network slot {slot.number} could not be made: its link {name} disappeared")
        _write_settings(((f"ipv6/conf/{name}/disable_ipv6", "1"), (f"ipv4/conf/{name}/rp_filter", "1")))
        with Batch() as batch:
            batch.address(
                f"give {name} its address",
                index=index,
                address=str(slot.host_ip),
                prefixlen=slot.subnet.prefixlen,
            )
            batch.link(f"bring {name} up", "set", index=index, state="up")
            batch.send()
        self._step("done")

    def remove(self, number: int) -> None:
        """Remove slot ``number``, or what there is of it, in the host's namespace. Idempotent.

        The host's link goes first: whatever may still hold the namespace open is cut off at once. The taps,
        the policy and all connection state go with the namespace.

        Raises:
            HostFailure: the kernel refuses.
        """
        slot = self._plan.slot(number)
        try:
            self._step("remove veth pair")
            _delete_links([slot.host_link])
            self._step("remove namespace")
            namespace.remove(self.netns(number))
            self._step("removed")
        except OSError as error:
            raise HostFailure(
                f"network slot {number} could not be removed: {error.strerror or error}",
                code="network_failed",
            ) from error

    def leftovers(self) -> set[int]:
        """Numbers of all slots of which anything exists on this host, whole or half-made."""
        found = {slot_number(n) for n in namespace.names() if n.startswith(NAMESPACE_PREFIX)}
        found |= {slot_number(n) for n in interface_names() if n.startswith(HOST_LINK_PREFIX)}
        return {number for number in found if number is not None}

    def is_whole(self, number: int) -> bool:
        """Whether slot ``number`` has its namespace, its taps and its way out."""
        slot = self._plan.slot(number)
        if interface_index(slot.host_link) is None:
            return False
        try:
            inside = namespace.run_in(self.netns(number), interface_names)
        except OSError:
            return False
        return {DATA_TAP, CONTROL_TAP, UPLINK} <= set(inside)

    def renew_policy(self, number: int, egress: Egress) -> None:
        """Load today's policy into a slot that an earlier agent made, for a guest that may reach ``egress``. Flows
        that are open and allowed stay open.

        Raises:
            HostFailure: nft refused; the earlier policy is in place.
        """
        slot = self._plan.slot(number)
        namespace.run_in(self.netns(number), lambda: apply_rules(self._policy.slot_rules(slot, egress)))

    def restrict(self, number: int, egress: Egress) -> None:
        """Give a slot another egress, at once and as a whole.

        Raises:
            HostFailure: nft refused, or the slot is gone; the earlier egress is in force.
        """
        rules = self._policy.egress_rules(egress)
        try:
            namespace.run_in(self.netns(number), lambda: apply_rules(rules))
        except OSError as error:
            raise HostFailure(
                f"network slot {number} is gone ({error.strerror or error})", code="network_failed"
            ) from error


def _configure_slot(batch: Batch, slot: SlotAddresses) -> None:
    """Addresses, the way out, and fixed neighbours: they save a round trip, and no guest can change them."""
    ends = (
        (DATA_TAP, _DATA_INDEX, DATA_HOST_MAC, DATA_GATEWAY, DATA_SUBNET.prefixlen),
        (CONTROL_TAP, _CONTROL_INDEX, CONTROL_HOST_MAC, CONTROL_HOST, CONTROL_SUBNET.prefixlen),
        (UPLINK, _UPLINK_INDEX, None, slot.uplink_ip, slot.subnet.prefixlen),
    )
    for name, index, mac, address, prefix in ends:
        batch.address(f"give {name} its address", index=index, address=str(address), prefixlen=prefix)
        fields = {"address": mac} if mac else {}
        batch.link(f"bring {name} up", "set", index=index, state="up", **fields)
    for index, address, mac in (
        (_DATA_INDEX, DATA_GUEST, DATA_GUEST_MAC),
        (_CONTROL_INDEX, CONTROL_GUEST, CONTROL_GUEST_MAC),
    ):
        batch.neighbour(
            f"fix the neighbour {address}", ifindex=index, dst=str(address), lladdr=mac, state=_PERMANENT
        )
    batch.route("set the default route", dst="0.0.0.0/0", gateway=str(slot.host_ip), oif=_UPLINK_INDEX)


def _write_settings(settings: Iterable[tuple[str, str]]) -> None:
    for name, value in settings:
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6 has no IPv6 settings
            (_SYSCTL / name).write_text(value)


def _delete_links(names: list[str]) -> None:
    """Delete links of the calling thread's namespace; those that are not there are no error."""
    found = [(name, index) for name in names if (index := interface_index(name)) is not None]
    if not found:
        return
    with Batch() as batch:
        for name, index in found:
            batch.link(f"delete {name}", "del", index=index)
        batch.send(ignore=frozenset({errno.ENODEV}))
