"""Which DNS servers guests' queries are redirected to.

A resolver on the host's loopback is of no use to a guest: packets to 127/8 never leave a namespace. So the
stub of systemd-resolved is looked behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from typing import Final

RESOLV_CONF: Final = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
"""In this order: the host's own, then what systemd-resolved's stub itself asks."""

MOST: Final = 3
"""As many as a C library would use."""


def choose_resolvers(
    configured: Sequence[IPv4Address], files: Iterable[Path] = RESOLV_CONF
) -> tuple[IPv4Address, ...]:
    """The resolvers for guests: those configured, else the host's own that can be reached from a slot.

    Returns:
        At most three addresses; empty when the host has only loopback or IPv6 resolvers. Guests then have no
        DNS, and ``PANDASTACK_DNS_SERVERS`` is what to set.
    """
    if configured:
        return tuple(dict.fromkeys(configured))[:MOST]
    for file in files:
        found = parse_resolv_conf(_read(file))
        if found:
            return found[:MOST]
    return ()


def parse_resolv_conf(text: str) -> tuple[IPv4Address, ...]:
    """IPv4 ``nameserver`` addresses in ``text``, in order, each once; loopback and 0.0.0.0 left out."""
    found: dict[IPv4Address, None] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            address = IPv4Address(words[1])
        except AddressValueError:
            continue
        if not address.is_loopback and not address.is_unspecified:
            found[address] = None
    return tuple(found)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
