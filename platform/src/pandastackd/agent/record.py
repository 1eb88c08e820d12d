"""What the agent writes down about each sandbox, so that a restarted agent knows what it owns.

One ``record.json`` in each sandbox's directory, replaced atomically; synced only where the sandbox is to
outlive a power cut too (hibernation), since a running machine cannot. It is written *before* anything is
acquired and removed with the directory after everything is released: whatever exists on the host is named by
some record.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from pandastackd.disk.atomic import write_json_atomically
from pandastackd.domain import Egress, Phases
from pandastackd.lifecycle import State
from pandastackd.snapshot import Manifest

FILE_NAME = "record.json"


@dataclass(frozen=True, slots=True)
class Origin:
    """What a machine is made of, whatever became of the snapshot it was restored from; every snapshot of it
    says the same.

    Attributes:
        kernel: digest of the guest kernel in memory.
        template: name of the template at the root of the line.
    """

    kernel: str
    template: str
    guest_agent: str
    env: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """The origin of a machine restored from a snapshot."""
        return cls(manifest.kernel, manifest.template, manifest.guest_agent, dict(manifest.env))


@dataclass(frozen=True, slots=True)
class Record:
    """The durable facts of one sandbox.

    Attributes:
        slot: network slot number; ``None`` once it was given back.
        generation: number of the machine files that count.
        egress: what its slot lets it reach.
        envd_version: what the guest's agent says of itself.
    """

    id: str
    snapshot_id: str
    vcpus: int
    memory_mib: int
    state: State
    slot: int | None
    origin: Origin
    generation: int = 0
    boot_mode: str = "restore"
    egress: Egress = field(default_factory=Egress)
    phases: Phases = field(default_factory=Phases)
    failure: str | None = None
    console_tail: str = ""
    envd_version: str = ""

    def save(self, directory: Path, *, durable: bool = False) -> Self:
        """Write the record into the sandbox's ``directory`` and return it; ``durable`` also outlives a power cut."""
        write_json_atomically(directory / FILE_NAME, asdict(self), durable=durable)
        return self

    def with_(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return replace(self, **changes)

    @classmethod
    def load(cls, directory: Path) -> Self | None:
        """The record of a sandbox directory; ``None`` when there is none or it cannot be read as one."""
        try:
            raw = json.loads((directory / FILE_NAME).read_text())
            return cls(
                **{
                    **raw,
                    "state": State(raw["state"]),
                    "phases": Phases(**raw["phases"]),
                    "origin": Origin(**raw["origin"]),
                    "egress": Egress(**{name: tuple(found) for name, found in raw.get("egress", {}).items()}),
                }
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None
