"""What a snapshot is: its manifest, written once beside the files and read strictly.

A manifest decides whether a machine may be started from the files, so nothing in it is guessed: an unknown
format, an unknown field, a missing or resized file is an error before anything was started.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from pandastackd.errors import HostFailure
from pandastackd.vmm.driver import Machine, VmmIdentity

FORMAT: Final = 1
NETWORK_VERSION = 1
"""Version of the addresses that are baked into every guest; a guest made for others would be unreachable."""

MEMORY, STATE, DISK = "memory", "state", "disk"
FILES = (MEMORY, STATE, DISK)
MANIFEST = "manifest.json"

_MAX_MANIFEST = 1024 * 1024
_MIB = 1024 * 1024

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]


class Kind(StrEnum):
    """Why a snapshot was taken."""

    TEMPLATE = "template"
    SNAPSHOT = "snapshot"
    FORK = "fork"
    """What the children of a fork start from; goes once they have."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VmmRecord(_Strict):
    """The VMM that saved the device state; only an equal one may load it."""

    name: str
    version: str
    accelerator: str
    cpu_model: str
    machine: str

    @classmethod
    def of(cls, identity: VmmIdentity) -> Self:
        """The record of a driver's identity."""
        return cls(
            name=identity.name,
            version=identity.version,
            accelerator=identity.accelerator,
            cpu_model=identity.cpu_model,
            machine=identity.machine,
        )

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.machine}, {self.accelerator}, {self.cpu_model})"


class FileRecord(_Strict):
    """One file: its length in bytes and, where somebody took the time, the digest of its content."""

    bytes: int = Field(ge=1)
    digest: str | None = None


class About(_Strict):
    """What people are told of a template."""

    label: str = ""
    description: str = ""
    category: str = ""
    base: str = ""
    tools: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


class Manifest(_Strict):
    """The facts of one snapshot.

    Attributes:
        kernel: digest of the guest kernel in memory.
        parent: the snapshot that the captured machine was restored from.
        template: name of the template at the root of the line.
        recipe: digest of the template's recipe; only of templates.
        about: what people are told of it; only of templates.
        env: environment that every process started in it gets.
        guest_agent: version of the agent in memory.
        files: ``memory``, ``state`` and ``disk``.
    """

    format: Literal[1] = 1
    id: Name
    kind: Kind
    created_at: AwareDatetime
    vmm: VmmRecord
    kernel: str
    vcpus: int = Field(ge=1, le=1024)
    memory_mib: int = Field(ge=1)
    disk_mib: int = Field(ge=1)
    parent: Name | None = None
    template: str
    recipe: str | None = None
    about: About | None = None
    env: dict[str, str] = {}
    guest_agent: str
    network: int = NETWORK_VERSION
    files: dict[str, FileRecord]

    @property
    def machine(self) -> Machine:
        """The machine that this snapshot can be restored into."""
        return Machine(vcpus=self.vcpus, memory_mib=self.memory_mib)

    def to_json(self) -> dict[str, Any]:
        """As it is written."""
        return self.model_dump(mode="json")


def describe(
    directory: Path,
    *,
    snapshot_id: str,
    kind: Kind,
    vmm: VmmIdentity,
    vcpus: int,
    memory_mib: int,
    kernel: str,
    template: str,
    guest_agent: str,
    parent: str | None = None,
    recipe: str | None = None,
    about: About | None = None,
    env: Mapping[str, str] | None = None,
    digests: Mapping[str, str] | None = None,
) -> Manifest:
    """The manifest of the files that lie in ``directory`` now; ``digests`` names files' digests, if they
    were taken.

    Raises:
        HostFailure: (``snapshot_damaged``) a file is missing, or memory is not as large as the machine's.
    """
    files: dict[str, FileRecord] = {}
    for name in FILES:
        path = directory / name
        if not path.is_file() or path.stat().st_size == 0:
            raise damaged(snapshot_id, f"its {name} was not captured")
        files[name] = FileRecord(bytes=path.stat().st_size, digest=(digests or {}).get(name))
    manifest = Manifest.model_validate(
        {
            "id": snapshot_id,
            "kind": kind,
            "created_at": datetime.now(UTC),
            "vmm": VmmRecord.of(vmm),
            "kernel": kernel,
            "vcpus": vcpus,
            "memory_mib": memory_mib,
            "disk_mib": -(-files[DISK].bytes // _MIB),
            "parent": parent,
            "template": template,
            "recipe": recipe,
            "about": about,
            "env": dict(env or {}),
            "guest_agent": guest_agent,
            "files": files,
        }
    )
    check_files(manifest, directory)
    return manifest


def read_manifest(directory: Path) -> Manifest:
    """The manifest in ``directory``, checked against the files beside it.

    Raises:
        HostFailure: (``snapshot_damaged``) it cannot be trusted; says why. ``snapshot_format``: it is of
        another
            version of this software.
    """
    name = directory.name
    path = directory / MANIFEST
    try:
        if path.stat().st_size > _MAX_MANIFEST:
            raise damaged(name, "its manifest is absurdly large")
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise damaged(name, f"its manifest cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise damaged(name, "its manifest is not JSON") from error
    if isinstance(value, dict) and value.get("format") != FORMAT:
        raise HostFailure(
            f"snapshot {name} has format {value.get('format')!r} and this version reads {FORMAT}; nothing was"
            " started; use the version that made it, or make it again",
            code="snapshot_format",
        )
    try:
        manifest = Manifest.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "manifest"
        raise damaged(name, f"its manifest is wrong at {place}: {first['msg']}") from error
    if manifest.id != name:
        raise damaged(name, f"its manifest says it is {manifest.id}")
    check_files(manifest, directory)
    return manifest


def check_files(manifest: Manifest, directory: Path) -> None:
    """Compare the files in ``directory`` with what the manifest says of them.

    Raises:
        HostFailure: (``snapshot_damaged``) one is missing, of another length, or memory does not fit the
        machine.
    """
    if unknown := set(manifest.files) - set(FILES):
        raise damaged(manifest.id, f"its manifest names files it cannot have: {', '.join(sorted(unknown))}")
    for name in FILES:
        record = manifest.files.get(name)
        if record is None:
            raise damaged(manifest.id, f"its manifest does not name its {name}")
        try:
            found = (directory / name).lstat()
        except FileNotFoundError as error:
            raise damaged(manifest.id, f"its {name} is missing") from error
        if found.st_size != record.bytes:
            raise damaged(
                manifest.id, f"its {name} is {found.st_size} bytes long and should be {record.bytes}"
            )
    if manifest.files[MEMORY].bytes != manifest.memory_mib * _MIB:
        raise damaged(manifest.id, f"its memory is not the {manifest.memory_mib} MiB of its machine")


def damaged(name: str, why: str) -> HostFailure:
    """The error for a snapshot that cannot be used."""
    return HostFailure(
        f"snapshot {name} cannot be used: {why}; nothing was started; delete it and make it again",
        code="snapshot_damaged",
    )
