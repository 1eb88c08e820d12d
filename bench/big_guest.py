"""A template with a guest large enough to have written a gigabyte, for as long as a bench runs."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pandastackd.config import Settings
from pandastackd.disk.layout import DataDir
from pandastackd.snapshot import SnapshotStore

NAME = "bench-big"
RECIPE = 'parent = "base"\nlabel = "Big"\ndescription = "A large guest, for measuring"\nmemory_mib = 2560\n'
TEMPLATES = Path(__file__).resolve().parents[1] / "templates"


@contextmanager
def templates() -> Iterator[Path]:
    """A templates folder that has it beside our own."""
    with tempfile.TemporaryDirectory(prefix="pandastack-bench-") as scratch:
        folder = Path(scratch) / "templates"
        shutil.copytree(TEMPLATES, folder)
        (folder / NAME).mkdir()
        (folder / NAME / "template.toml").write_text(RECIPE)
        yield folder


def remove(data_dir: Path) -> None:
    """Remove what a server baked of it; the server is stopped."""
    settings, data = Settings(), DataDir(data_dir)
    data.prepare(image_gib=settings.data_image_gib, reserve_mib=settings.disk_reserve_mib)
    try:
        store = SnapshotStore(data.snapshots, data.staging)
        for snapshot in store.list():
            if snapshot.manifest.template == NAME:
                asyncio.run(store.delete(snapshot.id))
    finally:
        data.release()
