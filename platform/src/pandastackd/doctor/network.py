"""Checks of what a network slot is made of: namespaces, a tap, firewall rules, a free address range."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

from pandastackd.config import Settings
from pandastackd.doctor.finding import Finding, fail, ok, warn
from pandastackd.errors import PlatformError
from pandastackd.network.host import check_free, foreign_forward_drops, host_claims
from pandastackd.network.namespace import leave_for_new_namespace, run_in_thread
from pandastackd.network.policy import remove_rules
from pandastackd.network.taps import make_tap

_TRIAL_INDEX = 77
_KINDS = ("mount", "pid", "net", "ipc", "uts")


def namespaces(_: Settings) -> Finding:
    """Every kind of namespace that a VMM is put into, made once for real."""
    command = ["unshare", "--fork", *(f"--{kind}" for kind in _KINDS), "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    if done.returncode == 0:
        return ok("namespaces", f"{', '.join(_KINDS)} namespaces can be made")
    return fail(
        "namespaces",
        f"namespaces cannot be made ({done.stderr.strip()}): VMMs could not be walled in",
        "run as root on the host itself, or give the container CAP_SYS_ADMIN and an unconfined profile",
    )


def tun(_: Settings) -> Finding:
    """A tap device, made in a namespace of its own and gone with it."""
    problem = _try_in_namespace(lambda: make_tap("doctor0", index=_TRIAL_INDEX, owner=os.getuid()))
    if problem is None:
        return ok("tun", "tap devices can be made")
    return fail(
        "tun", f"no tap device can be made ({problem}): guests have no network", "`modprobe tun`, as root"
    )


def nftables(_: Settings) -> Finding:
    """A firewall table, added and deleted in a namespace of its own."""
    problem = _try_in_namespace(remove_rules)
    if problem is None:
        return ok("nftables", "firewall tables can be made")
    return fail("nftables", problem, "`apt-get install nftables`; a kernel with nf_tables; root")


def overlap(settings: Settings) -> Finding:
    """Whether the range of the slots is free on this host."""
    try:
        check_free(settings.network, host_claims())
    except PlatformError as error:
        return fail("network", error.message, "set PANDASTACK_NETWORK to a /16 that nothing here uses")
    return ok("network", f"{settings.network} is free for slots")


def firewall(_: Settings) -> Finding:
    """Other firewalls that would cut guests off from the internet."""
    drops = foreign_forward_drops()
    if not drops:
        return ok("firewall", "no other firewall drops forwarded packets by default")
    return warn(
        "firewall", "; ".join(drops), "allow forwarding from and to the interfaces named, in that firewall"
    )


def _try_in_namespace(action: Callable[[], object]) -> str | None:
    """What went wrong when ``action`` ran in a fresh network namespace; ``None`` when nothing did."""

    def body() -> None:
        leave_for_new_namespace()
        action()

    try:
        run_in_thread(body)
    except PlatformError as error:
        return error.message
    except OSError as error:
        return error.strerror or str(error)
    return None
