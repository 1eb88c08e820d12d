"""The way of the host to a sandbox's agent, from outside the server: the control side, made in the slot's namespace."""

from __future__ import annotations

import json
from pathlib import Path

from pandastackd.config import Settings
from pandastackd.disk.layout import DataDir
from pandastackd.guest import GuestClient
from pandastackd.network import Slot
from pandastackd.network.addresses import AddressPlan
from pandastackd.network.namespace import NETNS_DIR


def control_client(data_dir: Path, sandbox_id: str) -> GuestClient:
    """A client of a running sandbox's agent; needs root on the host of the sandbox."""
    return GuestClient(control_slot(data_dir, sandbox_id).connect)


def control_slot(data_dir: Path, sandbox_id: str) -> Slot:
    """The slot of a running sandbox."""
    record = json.loads((DataDir(data_dir).sandbox(sandbox_id) / "record.json").read_text())
    addresses = AddressPlan(Settings().network).slot(record["slot"])
    return Slot(
        number=record["slot"],
        name=addresses.namespace,
        netns=NETNS_DIR / addresses.namespace,
        uid=0,
        host_ip=addresses.host_ip,
        uplink_ip=addresses.uplink_ip,
    )
