"""A template's recipe: ``template.toml`` and the files beside it, read, checked and made one frozen value.

A recipe may name a ``parent``. The child then starts from all the parent has: its packages, files, commands
and environment come after the parent's; what it leaves out (machine size, start command, readiness check) is
the parent's.

Two digests name what a recipe makes. ``rootfs_digest`` covers what ends up on the disk, file contents and
parents included; ``digest`` covers that and how the machine is started, warmed and sized. Labels and aliases
are in neither: renaming a template builds nothing.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from pandastackd.errors import InvalidRequest, NotFound

FORMAT = 3
"""Part of every digest; raised when the same recipe starts to mean another disk."""

DEFAULT_SUITE = "trixie"
RECIPE_FILE = "template.toml"

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")]
Package = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9+.-]+(=[A-Za-z0-9.+~:-]+)?$")]
Requirement = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9,._-]+\])?[<>=!~0-9.*,a-z+]*$")
]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Command = Annotated[str, StringConstraints(min_length=1, max_length=65_536)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FileEntry(_Part):
    """One file of the template's folder and where it goes in the guest."""

    source: str
    target: str
    mode: Annotated[str, StringConstraints(pattern=r"^0[0-7]{3}$")] = "0644"

    @field_validator("source")
    @classmethod
    def _source_stays_inside(cls, value: str) -> str:
        path = PurePosixPath(value)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in value:
            raise ValueError("must be a path inside the template's folder")
        return value

    @field_validator("target")
    @classmethod
    def _target_is_plain(cls, value: str) -> str:
        path = PurePosixPath(value)
        if not path.is_absolute() or str(path) != value or ".." in path.parts or len(path.parts) < 2:
            raise ValueError("must be an absolute path without . or ..")
        if any(character in value for character in '"\n\r\0'):
            raise ValueError("must not contain quotes or line breaks")
        return value


class Start(_Part):
    """The process that runs in every sandbox of the template from the moment it is restored."""

    command: Command
    user: Name = "user"


class Ready(_Part):
    """A command that exits 0 once the start command serves; repeated until then or until the time is up."""

    command: Command
    user: Name = "user"
    timeout_seconds: int = Field(default=120, ge=1, le=3600)


class RecipeFile(_Part):
    """``template.toml`` as written. An unknown key is an error."""

    parent: Name | None = None
    aliases: tuple[Name, ...] = ()
    label: str = ""
    description: str = ""
    category: str = ""
    tools: tuple[str, ...] = ()
    suite: Name | None = None
    packages: tuple[Package, ...] = ()
    pip: tuple[Requirement, ...] = ()
    files: tuple[FileEntry, ...] = ()
    commands: tuple[Command, ...] = ()
    env: dict[Variable, str] = {}
    start: Start | None = None
    ready: Ready | None = None
    warm: tuple[Command, ...] = ()
    vcpus: int | None = Field(default=None, ge=1, le=64)
    memory_mib: int | None = Field(default=None, ge=128, le=1_048_576)
    disk_mib: int | None = Field(default=None, ge=256, le=4_194_304)


@dataclass(frozen=True)
class Recipe:
    """A recipe with its parent resolved.

    Attributes:
        name: the template's name: its folder's.
        folder: where the files are.
        written: ``template.toml``.
        parent: the recipe this one starts from.
    """

    name: str
    folder: Path
    written: RecipeFile
    parent: Recipe | None = None

    @property
    def layers(self) -> tuple[Recipe, ...]:
        """This recipe and all it starts from, the oldest first."""
        return (*(self.parent.layers if self.parent else ()), self)

    @property
    def suite(self) -> str:
        """Debian's code name of the release that the root file system is made from."""
        return self.written.suite or (self.parent.suite if self.parent else DEFAULT_SUITE)

    @property
    def vcpus(self) -> int:
        """Virtual processors of the machine."""
        return self.written.vcpus or (self.parent.vcpus if self.parent else 1)

    @property
    def memory_mib(self) -> int:
        """Memory of the machine in MiB."""
        return self.written.memory_mib or (self.parent.memory_mib if self.parent else 512)

    @property
    def disk_mib(self) -> int:
        """Size of the disk in MiB; it takes no more of the host than what is written."""
        return self.written.disk_mib or (self.parent.disk_mib if self.parent else 4096)

    @property
    def packages(self) -> tuple[str, ...]:
        """Debian packages of all layers."""
        return tuple(dict.fromkeys(package for layer in self.layers for package in layer.written.packages))

    @property
    def env(self) -> dict[str, str]:
        """Environment of every process in the sandbox, unless told otherwise."""
        return {name: value for layer in self.layers for name, value in layer.written.env.items()}

    @property
    def start(self) -> Start | None:
        """What runs in every sandbox."""
        return self.written.start or (self.parent.start if self.parent else None)

    @property
    def ready(self) -> Ready | None:
        """How to tell that it serves."""
        return self.written.ready or (self.parent.ready if self.parent else None)

    @property
    def warm(self) -> tuple[str, ...]:
        """Commands run once before the machine is baked, so that what they touch is in memory."""
        return tuple(dict.fromkeys(command for layer in self.layers for command in layer.written.warm))

    @property
    def starts_afresh(self) -> bool:
        """Whether the disk is made from nothing: packages are only installed together with all others."""
        return self.parent is None or bool(self.written.packages)

    @cached_property
    def rootfs_digest(self) -> str:
        """Names the disk: 32 hexadecimal digits."""
        written = self.written
        return _digest(
            {
                "format": FORMAT,
                "parent": self.parent.rootfs_digest if self.parent else None,
                "suite": self.suite,
                "packages": sorted(self.packages),
                "pip": written.pip,
                "files": [[file.target, file.mode, self._content_digest(file)] for file in written.files],
                "commands": written.commands,
                "env": self.env,
                "disk_mib": self.disk_mib,
            }
        )

    @cached_property
    def digest(self) -> str:
        """Names the baked template, but for kernel and VMM: 32 hexadecimal digits."""
        return _digest(
            {
                "rootfs": self.rootfs_digest,
                "vcpus": self.vcpus,
                "memory_mib": self.memory_mib,
                "start": self.start.model_dump() if self.start else None,
                "ready": self.ready.model_dump() if self.ready else None,
                "warm": self.warm,
            }
        )

    def source(self, file: FileEntry) -> Path:
        """The file of this layer's folder that ``file`` names.

        Raises:
            InvalidRequest: it is not there, or a link leads out of the folder.
        """
        path = (self.folder / file.source).resolve()
        if not path.is_relative_to(self.folder.resolve()) or not path.is_file():
            raise InvalidRequest(
                f"template {self.name}: {file.source} is no file inside the template's folder; add it or"
                " remove its entry from files",
                code="invalid_template",
            )
        return path

    def _content_digest(self, file: FileEntry) -> str:
        with self.source(file).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()


class Catalog:
    """Every recipe of a templates folder, found by name or alias."""

    def __init__(self, recipes: dict[str, Recipe]) -> None:
        self._recipes = recipes
        self._names = {name: name for name in recipes}
        for name, recipe in recipes.items():
            for alias in recipe.written.aliases:
                taken = self._names.setdefault(alias, name)
                if taken != name:
                    raise _invalid(name, f"alias {alias} already names {taken}")

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """All recipes, parents before their children."""
        return tuple(sorted(self._recipes.values(), key=lambda recipe: (len(recipe.layers), recipe.name)))

    def find(self, name: str) -> Recipe:
        """The recipe with this name or alias.

        Raises:
            NotFound: none has it.
        """
        try:
            return self._recipes[self._names[name]]
        except KeyError:
            known = ", ".join(sorted(self._recipes)) or "none"
            raise NotFound(
                f"no template is called {name}; there is: {known}", code="template_not_found"
            ) from None


def load_catalog(folder: Path) -> Catalog:
    """Reads every ``<folder>/<name>/template.toml``.

    Raises:
        InvalidRequest: a recipe is wrong; names the template, the key and what is wrong with it.
    """
    written = {path.parent.name: _read(path) for path in sorted(folder.glob(f"*/{RECIPE_FILE}"))}
    resolved: dict[str, Recipe] = {}

    def resolve(name: str, children: tuple[str, ...]) -> Recipe:
        if name in children:
            raise _invalid(name, f"is its own ancestor ({' -> '.join((*children, name))})")
        if name not in resolved:
            mine = written[name]
            parent = None
            if mine.parent is not None:
                if mine.parent not in written:
                    raise _invalid(name, f"parent {mine.parent} does not exist")
                parent = resolve(mine.parent, (*children, name))
            resolved[name] = _checked(Recipe(name, folder / name, mine, parent))
        return resolved[name]

    for name in written:
        resolve(name, ())
    return Catalog(resolved)


def _read(path: Path) -> RecipeFile:
    name = path.parent.name
    try:
        content = tomllib.loads(path.read_text())
        # TOML knows arrays, the model tuples: JSON mode takes the one for the other and stays strict about
        # the rest.
        return RecipeFile.model_validate_json(json.dumps(content))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _invalid(name, f"{RECIPE_FILE} is no TOML: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or RECIPE_FILE
        wrong = "unknown key" if first["type"] == "extra_forbidden" else first["msg"]
        raise _invalid(name, f"{key}: {wrong}") from None


def _checked(recipe: Recipe) -> Recipe:
    parent = recipe.parent
    if parent and recipe.suite != parent.suite:
        raise _invalid(
            recipe.name, f"suite is {recipe.suite}, but its parent {parent.name} is {parent.suite}"
        )
    if parent and recipe.disk_mib < parent.disk_mib:
        raise _invalid(
            recipe.name, f"disk_mib is {recipe.disk_mib}, less than the {parent.disk_mib} of its parent"
        )
    return recipe


def _invalid(name: str, wrong: str) -> InvalidRequest:
    return InvalidRequest(f"template {name}: {wrong}; mend its {RECIPE_FILE}", code="invalid_template")


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
