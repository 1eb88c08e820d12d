"""Snapshots: memory, device state and disk of one instant, as one immutable thing.

Knows the files, their manifest and the memory path. Does not know tenants, networks or HTTP.
"""

from pandastackd.snapshot.manifest import About, Kind, Manifest, describe
from pandastackd.snapshot.memory import MemoryTool
from pandastackd.snapshot.store import Snapshot, SnapshotStore, require_restorable

__all__ = [
    "About",
    "Kind",
    "Manifest",
    "MemoryTool",
    "Snapshot",
    "SnapshotStore",
    "describe",
    "require_restorable",
]
