"""From a recipe to its root file system, built once and found again by digest.

A recipe is built layer upon layer: the oldest from Debian's packages, each next on a copy of the one before,
with its Python packages and files added to the image and its commands run in a microVM. A layer that adds
Debian packages starts from nothing, since only the archive's own tools can install them together with all
others.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from anyio import to_thread

from pandastackd.errors import HostFailure, InsufficientStorage
from pandastackd.template import debian, tools
from pandastackd.template.bake import OpenBench, run_commands
from pandastackd.template.debian import Archive
from pandastackd.template.image import TIMESTAMP, add_tree, copy_image
from pandastackd.template.initramfs import GuestPrograms
from pandastackd.template.kernel import BootFiles, boot_files, fetch_kernel
from pandastackd.template.recipe import DEFAULT_SUITE, Recipe
from pandastackd.template.rootfs import make_rootfs
from pandastackd.template.wheels import add_wheels

BUILD_NEEDS_MIB = 3072
"""Free space that a build may take while it works: packages, their contents twice, and the image."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where a builder works. All but ``cache`` must be on one file system.

    Attributes:
        kernels: finished kernels.
        rootfs: finished root file systems, ``<digest>.ext4``.
        staging: what is half-made; whatever a killed build left here may be deleted.
        cache: downloaded packages and wheels; may be deleted at any time.
    """

    kernels: Path
    rootfs: Path
    staging: Path
    cache: Path


class TemplateBuilder:
    """Builds kernels and root file systems.

    Args:
        places: where to work.
        programs: what every guest gets beside its disk.
        mirror: base address of a Debian archive; by default the one that the host's apt uses.
        kernel_suite: code name of the Debian release whose kernel all guests get.
    """

    def __init__(
        self,
        places: Places,
        *,
        programs: GuestPrograms,
        mirror: str | None = None,
        kernel_suite: str = DEFAULT_SUITE,
    ) -> None:
        self._places = places
        self._programs = programs
        self._mirror = mirror
        self._kernel_suite = kernel_suite

    async def boot_files(self, *, progress: tools.Progress = tools.silent) -> BootFiles:
        """The kernel and initramfs for every guest; quick when nothing changed.

        Raises:
            HostFailure: a tool, the network or one of our binaries is missing; says which.
        """
        archive = await debian.archive(self._kernel_suite, mirror=self._mirror)
        kernel = await fetch_kernel(archive, self._places.kernels, progress=progress)
        return await boot_files(kernel, self._programs, self._places.kernels)

    def image_of(self, recipe: Recipe) -> Path:
        """Where a recipe's root file system is, or will be."""
        return self._places.rootfs / f"{recipe.rootfs_digest}.ext4"

    async def rootfs(
        self, recipe: Recipe, *, open_bench: OpenBench | None = None, progress: tools.Progress = tools.silent
    ) -> Path:
        """The root file system of a recipe, building it and its parents where they are not there yet.

        Args:
            open_bench: boots the machine in which the recipe's commands are run.
            progress: told about each long step.

        Raises:
            HostFailure: a step failed; says which and carries what the tool said.
            InsufficientStorage: too little space to build in.
        """
        image = self.image_of(recipe)
        if not image.exists():
            base = None
            if recipe.parent is not None and not recipe.starts_afresh:
                base = await self.rootfs(recipe.parent, open_bench=open_bench, progress=progress)
            async with self._scratch() as scratch:
                made = await self._build(recipe, base, scratch, open_bench, progress)
                await to_thread.run_sync(_publish, made, image)
        return image

    async def _build(
        self,
        recipe: Recipe,
        base: Path | None,
        scratch: Path,
        open_bench: OpenBench | None,
        progress: tools.Progress,
    ) -> Path:
        image = scratch / "rootfs.ext4"
        archive = await debian.archive(recipe.suite, mirror=self._mirror)
        if base is not None:
            await copy_image(base, image, recipe.disk_mib)
            layers: tuple[Recipe, ...] = (recipe,)
        else:
            await make_rootfs(
                archive,
                recipe.packages,
                image,
                disk_mib=recipe.disk_mib,
                downloads=self._cache(f"apt-{recipe.suite}"),
                scratch=scratch,
                progress=progress,
            )
            layers = recipe.layers
        for number, layer in enumerate(layers):
            home = scratch / f"layer-{number}"
            home.mkdir()
            await self._add_layer(archive, layer, image, home, progress)
            if layer.written.commands:
                image = await _with_commands(layer, image, home / "after.ext4", open_bench, progress)
        return image

    async def _add_layer(
        self, archive: Archive, layer: Recipe, image: Path, scratch: Path, progress: tools.Progress
    ) -> None:
        """Adds a layer's Python packages and files to the image."""
        tree = scratch / "tree"
        tree.mkdir()
        if layer.written.pip:
            progress("pip", f"adding {', '.join(layer.written.pip)} and what they need")
            await add_wheels(
                archive, layer.written.pip, tree, cache=self._cache("wheels"), scratch=_made(scratch / "pip")
            )
        await to_thread.run_sync(_add_files, layer, tree)
        if any(tree.iterdir()):
            await add_tree(image, tree)

    @asynccontextmanager
    async def _scratch(self) -> AsyncIterator[Path]:
        free = shutil.disk_usage(self._places.staging).free >> 20
        if free < BUILD_NEEDS_MIB:
            raise InsufficientStorage(
                f"building a template needs {BUILD_NEEDS_MIB} MiB of free disk and {free} MiB are free;"
                " delete something or use a larger disk"
            )
        scratch = await to_thread.run_sync(_scratch_folder, self._places.staging)
        try:
            yield scratch
        finally:
            await to_thread.run_sync(lambda: shutil.rmtree(scratch, ignore_errors=True))

    def _cache(self, name: str) -> Path:
        return _made(self._places.cache / name)


async def _with_commands(
    layer: Recipe, image: Path, after: Path, open_bench: OpenBench | None, progress: tools.Progress
) -> Path:
    """Runs a layer's commands in a machine with the image as its disk, and returns the disk afterwards."""
    if open_bench is None:
        raise HostFailure(
            f"template {layer.name} has commands, and no machine to run them in was given",
            code="build_failed",
        )
    async with open_bench(image, vcpus=layer.vcpus, memory_mib=layer.memory_mib) as bench:
        await run_commands(bench.guest, layer, progress=progress)
        await bench.shut_down_into(after)
    return after


def _add_files(layer: Recipe, tree: Path) -> None:
    for file in layer.written.files:
        target = tree / file.target.removeprefix("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(layer.source(file), target)
        target.chmod(int(file.mode, 8))
        os.utime(target, (TIMESTAMP, TIMESTAMP))


def _scratch_folder(staging: Path) -> Path:
    scratch = Path(tempfile.mkdtemp(dir=staging, prefix="template-"))
    # Packages are installed inside: their unprivileged helpers must be able to pass.
    scratch.chmod(0o755)
    return scratch


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _publish(made: Path, image: Path) -> None:
    """Moves a finished image to its place, whole and read-only."""
    made.chmod(0o444)
    with made.open("rb") as stream:
        os.fsync(stream.fileno())
    made.rename(image)
    folder = os.open(image.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
