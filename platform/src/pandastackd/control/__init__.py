"""What should be: sandboxes, their keys and lifetimes, and making the host agree.

Knows the store and the host agent's public face. Does not know HTTP, and no VMM.
"""

from pandastackd.control.commands import Commands
from pandastackd.control.control import Control
from pandastackd.control.creation import CreateRequest
from pandastackd.control.forks import Fork, ForkRequest, Promotion
from pandastackd.control.host import Guest, HostAgent
from pandastackd.control.keys import Principal
from pandastackd.control.lifetime import TtlFrom
from pandastackd.control.lineage import Node
from pandastackd.control.network import Network
from pandastackd.control.once import Key
from pandastackd.control.ports import Port, checked_port
from pandastackd.control.sandboxes import Lifetime
from pandastackd.control.terminals import Program
from pandastackd.control.traffic import Traffic

# What callers get to read; the store itself is none of their business.
from pandastackd.store import ApiKeyRow, EventRow, SandboxRow, SnapshotRow

__all__ = [
    "ApiKeyRow",
    "Commands",
    "Control",
    "CreateRequest",
    "EventRow",
    "Fork",
    "ForkRequest",
    "Guest",
    "HostAgent",
    "Key",
    "Lifetime",
    "Network",
    "Node",
    "Port",
    "Principal",
    "Program",
    "Promotion",
    "SandboxRow",
    "SnapshotRow",
    "Traffic",
    "TtlFrom",
    "checked_port",
]
