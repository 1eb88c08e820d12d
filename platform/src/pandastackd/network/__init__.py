"""Network slots: a namespace, a veth pair and two taps for each sandbox, walled in by a default policy.

Knows netlink and nftables; knows nothing of VMMs. ``addresses`` holds the plan, ``policy`` the rules,
``links`` makes one slot in the kernel, ``slots`` is the pool that everybody else uses.
"""

from pandastackd.network.slot import Slot
from pandastackd.network.slots import SlotPool

__all__ = ["Slot", "SlotPool"]
