"""A sandbox's egress over its whole life: what its slot's rule set holds after every move. What the sets do to
packets is tested with packets, in ``test_network_egress``.

Needs root, QEMU and the templates; runs one server and two microVMs at once.
"""

from __future__ import annotations

import json
import subprocess

import httpx

from pandastack import PandaStack, Sandbox
from pandastackd.child_server import ChildServer
from pandastackd.network import namespace

DENIED = {"192.0.2.0/24", "198.51.100.7/32"}


def slot_of(server: ChildServer, sandbox: Sandbox) -> str:
    """The namespace that a running sandbox's machine is in."""
    headers = {"Authorization": f"Bearer {server.admin_key}"}
    shown = httpx.get(f"{server.url}/v1/sandboxes/{sandbox.id}", headers=headers).json()
    return str(shown["host_tap"]).partition("/")[0]


def denied_in(slot: str) -> set[str]:
    """What a slot denies, by the kernel's word."""
    command = ["nft", "-j", "list", "set", "inet", "pandastack", "denied"]
    listed = namespace.run_in(
        namespace.NETNS_DIR / slot,
        lambda: subprocess.run(command, capture_output=True, text=True, check=True).stdout,
    )
    (elements,) = [body["set"].get("elem", []) for body in json.loads(listed)["nftables"] if "set" in body]
    return {
        f"{one['prefix']['addr']}/{one['prefix']['len']}" if isinstance(one, dict) else f"{one}/32"
        for one in elements
    }


def test_it_is_kept_over_every_move_and_inherited(client: PandaStack, server: ChildServer) -> None:
    def denied(one: Sandbox) -> set[str]:
        return denied_in(slot_of(server, one))

    with client.sandboxes.create(template="base", network={"deny_out": sorted(DENIED)}) as sandbox:
        assert denied(sandbox) == DENIED
        snapshot = sandbox.snapshot()
        with sandbox.fork() as child:
            assert denied(child) == DENIED
            child.set_network(deny_out=["203.0.113.9"])
            assert denied(child) == {"203.0.113.9/32"}
            assert denied(sandbox) == DENIED
        sandbox.hibernate()
        sandbox.set_network(internet=False)
        assert sandbox.exec("echo woken", check=True).stdout == "woken\n"
        assert denied(sandbox) == {"0.0.0.0/0"}
        sandbox.rollback(snapshot)
        assert denied(sandbox) == {"0.0.0.0/0"}, "the network is the sandbox's, not the instant's"
        slot = slot_of(server, sandbox)
        server.stop()
        assert denied_in(slot) == {"0.0.0.0/0"}, "also while no server runs"
        server.start()
        assert denied(sandbox) == {"0.0.0.0/0"}
        assert sandbox.network().internet is False
        sandbox.set_network()
        assert denied(sandbox) == set()
        client.snapshots.delete(snapshot)


def test_what_it_takes_of_the_host_is_shown(client: PandaStack, server: ChildServer) -> None:
    with client.sandboxes.create(template="base") as sandbox:
        answer = httpx.get(
            f"{server.url}/v1/sandboxes/{sandbox.id}/metrics",
            headers={"Authorization": f"Bearer {server.admin_key}"},
        )
    used = answer.json()
    assert 0 < used["uptime_seconds"] < 3600
    assert used["host_rss_bytes"] > 1 << 20
    assert used["threads"] >= 1
