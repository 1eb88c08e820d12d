"""Every recipe of the templates folder as a baked snapshot on this host.

    recipe ──build──▶ root file system (cache, by digest) ──boot, start, warm, freeze──▶ snapshot

A bake's id is made of all that decides what is in it: recipe, kernel, guest binaries, VMM and CPU. What is
baked already is found by that id; what changed is baked again, and the older bake of the same template goes.
Sandboxes that run on an older bake keep what they need of it.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Self

import structlog

from pandastackd import __version__
from pandastackd.agent.rooms import Rooms
from pandastackd.agent.workbench import Workbench, workbench
from pandastackd.disk.atomic import empty_directory
from pandastackd.errors import HostFailure, NotFound, PlatformError
from pandastackd.snapshot import About, Kind, Snapshot, describe
from pandastackd.snapshot.manifest import NETWORK_VERSION
from pandastackd.template.bake import warm_up
from pandastackd.template.build import Places, TemplateBuilder
from pandastackd.template.initramfs import GuestPrograms
from pandastackd.template.kernel import BootFiles
from pandastackd.template.recipe import Catalog, Recipe, load_catalog
from pandastackd.template.tools import Progress

log = structlog.get_logger(__name__)


class TemplateLibrary:
    """Keeps a host's templates baked.

    Args:
        catalog: the recipes.
        rooms: the agent's collaborators: a bake is made in a machine on this host.
        progress: told about each long step.
    """

    def __init__(self, catalog: Catalog, rooms: Rooms, progress: Progress) -> None:
        self._catalog = catalog
        self._rooms = rooms
        self._progress = progress
        cache = rooms.settings.cache_dir
        self._lock_file = cache / "lock"
        self._places = Places(cache / "kernel", cache / "rootfs", cache / "staging", cache / "downloads")
        self._builder = TemplateBuilder(self._places, programs=GuestPrograms.built())

    @classmethod
    def of(cls, rooms: Rooms, progress: Progress) -> Self:
        """The library of the templates folder that the settings name.

        Raises:
            InvalidRequest: a recipe is wrong; names the template and the key.
        """
        folder = rooms.settings.templates_dir or Path(__file__).resolve().parents[4] / "templates"
        return cls(load_catalog(folder), rooms, progress)

    async def bake_missing(self) -> dict[str, PlatformError]:
        """Bake every template that is not baked; what could not be is left out and told by name."""
        failures: dict[str, PlatformError] = {}
        async with self._alone():
            try:
                boot_files = await self._builder.boot_files(progress=self._progress)
            except PlatformError as error:
                return {recipe.name: error for recipe in self._catalog.recipes}
            for recipe in self._catalog.recipes:
                if recipe.parent is not None and recipe.parent.name in failures:
                    failures[recipe.name] = failures[recipe.parent.name]
                    continue
                try:
                    await self._ensure(recipe, boot_files)
                except PlatformError as error:
                    log.error("template.not_baked", template=recipe.name, reason=error.message)
                    failures[recipe.name] = error
        return failures

    async def _ensure(self, recipe: Recipe, boot_files: BootFiles) -> None:
        snapshot_id = self._snapshot_id(recipe, boot_files)
        if not await self._baked(snapshot_id):
            await self._bake(recipe, boot_files, snapshot_id)
        for snapshot in self._rooms.snapshots.list():
            manifest = snapshot.manifest
            if (
                manifest.kind is Kind.TEMPLATE
                and manifest.template == recipe.name
                and snapshot.id != snapshot_id
            ):
                await self._rooms.snapshots.delete(snapshot.id)

    async def _bake(self, recipe: Recipe, boot_files: BootFiles, snapshot_id: str) -> Snapshot:
        def progress(step: str, detail: str) -> None:
            self._progress(f"{recipe.name}: {step}", detail)

        def open_bench(disk: Path, *, vcpus: int, memory_mib: int) -> AbstractAsyncContextManager[Workbench]:
            return workbench(
                self._rooms,
                disk=disk,
                vcpus=vcpus,
                memory_mib=memory_mib,
                kernel=boot_files.bzimage,
                initrd=boot_files.initramfs,
            )

        image = await self._builder.rootfs(recipe, open_bench=open_bench, progress=progress)
        progress("boot", f"{recipe.vcpus} vCPU, {recipe.memory_mib} MiB")
        async with (
            self._rooms.snapshots.draft(snapshot_id) as draft,
            open_bench(image, vcpus=recipe.vcpus, memory_mib=recipe.memory_mib) as bench,
        ):
            progress("booted", f"first answer after {bench.boot_ms:.0f} ms")
            await warm_up(bench.guest, recipe, progress=progress)
            progress("freeze", "memory, devices and disk")
            await bench.freeze_into(draft)
            manifest = describe(
                draft,
                snapshot_id=snapshot_id,
                kind=Kind.TEMPLATE,
                vmm=self._rooms.driver.identity(),
                vcpus=recipe.vcpus,
                memory_mib=recipe.memory_mib,
                kernel=boot_files.digest,
                template=recipe.name,
                recipe=recipe.digest,
                guest_agent=__version__,
                about=_about(recipe),
                env=recipe.env,
            )
            return await self._rooms.snapshots.publish(draft, manifest)

    async def _baked(self, snapshot_id: str) -> bool:
        try:
            self._rooms.snapshots.get(snapshot_id)
        except NotFound:
            return False
        except HostFailure as damaged:
            log.warning("template.damaged", snapshot=snapshot_id, reason=damaged.message)
            await self._rooms.snapshots.delete(snapshot_id)
            return False
        return True

    def _snapshot_id(self, recipe: Recipe, boot_files: BootFiles) -> str:
        identity = self._rooms.driver.identity()
        parts = (recipe.digest, boot_files.digest, repr(identity), str(NETWORK_VERSION))
        return f"{recipe.name}-{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:16]}"

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """One build at a time in the cache; what a killed one left half-made is removed first."""
        for folder in (self._places.kernels, self._places.rootfs, self._places.staging, self._places.cache):
            folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
            await asyncio.to_thread(empty_directory, self._places.staging)
            yield
        finally:
            os.close(lock)


def _about(recipe: Recipe) -> About:
    written = recipe.written
    return About(
        label=written.label,
        description=written.description,
        category=written.category,
        base=recipe.parent.name if recipe.parent else "",
        tools=written.tools,
        aliases=written.aliases,
    )
