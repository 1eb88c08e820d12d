"""Snapshots appear wholly or not at all, are read strictly, and go only when nobody needs them."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pandastackd.errors import Conflict, HostFailure, NotFound
from pandastackd.snapshot import SnapshotStore, require_restorable

from .conftest import IDENTITY, MIB, fill, manifest_of, publish

pytestmark = pytest.mark.anyio


async def test_what_was_published_is_what_is_read(store: SnapshotStore, tmp_path: Path) -> None:
    await publish(store, "one")
    fresh = SnapshotStore(tmp_path / "snapshots", tmp_path / "staging")
    snapshot = fresh.get("one")
    assert snapshot.manifest == store.get("one").manifest
    assert snapshot.manifest.machine.memory_mib == 1
    assert snapshot.manifest.disk_mib == 3
    assert snapshot.memory.read_bytes() == b"\1" * MIB
    assert snapshot.size_bytes() >= 4 * MIB
    assert [each.id for each in fresh.list()] == ["one"]
    assert list((tmp_path / "staging").iterdir()) == []
    for path in (snapshot.memory, snapshot.state, snapshot.disk):
        assert path.stat().st_mode & 0o222 == 0


async def test_a_capture_that_fails_leaves_nothing(store: SnapshotStore, tmp_path: Path) -> None:
    async def fail() -> None:
        async with store.draft("one") as draft:
            fill(draft)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert list((tmp_path / "staging").iterdir()) == []
    with pytest.raises(NotFound):
        store.get("one")


async def test_half_a_capture_is_not_published(store: SnapshotStore, tmp_path: Path) -> None:
    async with store.draft("one") as draft:
        fill(draft)
        manifest = manifest_of(draft, "one")
        (draft / "disk").unlink()
        with pytest.raises(HostFailure, match="disk"):
            manifest_of(draft, "one")
        with pytest.raises(HostFailure, match="disk is missing"):
            await store.publish(draft, manifest)
    assert list((tmp_path / "snapshots").iterdir()) == []


async def test_an_id_is_taken_once(store: SnapshotStore) -> None:
    async with store.draft("one") as draft:
        fill(draft)
        await publish(store, "one")
        with pytest.raises(Conflict):
            await store.publish(draft, manifest_of(draft, "one"))
    with pytest.raises(Conflict):
        async with store.draft("one"):
            pass


@pytest.mark.parametrize("name", ["../one", "", ".", "..", "a/b", "a\0b", "-x", "x" * 200, "ü"])
async def test_an_id_is_never_a_path(store: SnapshotStore, name: str) -> None:
    with pytest.raises(NotFound):
        store.get(name)
    with pytest.raises(NotFound):
        await store.delete(name)


def _manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def damage(directory: Path) -> None:
        path = directory / "manifest.json"
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))

    return damage


def _link(directory: Path) -> None:
    (directory / "disk").rename(directory / "elsewhere")
    (directory / "disk").symlink_to("elsewhere")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no manifest": lambda d: (d / "manifest.json").unlink(),
    "not JSON": lambda d: (d / "manifest.json").write_text("{"),
    "a list": lambda d: (d / "manifest.json").write_text("[]"),
    "later format": _manifest(lambda m: m.update(format=2)),
    "unknown field": _manifest(lambda m: m.update(surprise=1)),
    "field missing": _manifest(lambda m: m.pop("vmm")),
    "other id": _manifest(lambda m: m.update(id="two")),
    "no vcpus": _manifest(lambda m: m.update(vcpus=0)),
    "other memory": _manifest(lambda m: m.update(memory_mib=2)),
    "file not named": _manifest(lambda m: m["files"].pop("state")),
    "file too many": _manifest(lambda m: m["files"].update({"../x": {"bytes": 1}})),
    "state missing": lambda d: (d / "state").unlink(),
    "disk cut": lambda d: os.truncate(d / "disk", 1),
    "disk is a link": _link,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
async def test_a_damaged_snapshot_is_refused_listed_apart_and_can_be_deleted(
    store: SnapshotStore, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    await publish(store, "one")
    damage(tmp_path / "snapshots" / "one")
    fresh = SnapshotStore(tmp_path / "snapshots", tmp_path / "staging")
    with pytest.raises(HostFailure, match="nothing was started") as caught:
        fresh.get("one")
    assert caught.value.code in {"snapshot_damaged", "snapshot_format"}
    assert fresh.list() == []
    assert fresh.damaged().keys() == {"one"}
    await fresh.delete("one")
    assert fresh.damaged() == {}


async def test_damage_is_seen_also_when_the_manifest_is_known(store: SnapshotStore, tmp_path: Path) -> None:
    await publish(store, "one")
    (tmp_path / "snapshots" / "one" / "memory").unlink()
    with pytest.raises(HostFailure, match="memory is missing"):
        store.get("one")


async def test_deleting_takes_nothing_from_who_has_links(store: SnapshotStore, tmp_path: Path) -> None:
    snapshot = await publish(store, "one")
    mine = tmp_path / "mine"
    mine.hardlink_to(snapshot.memory)
    content = mine.read_bytes()
    await store.delete("one")
    assert mine.read_bytes() == content
    mine.unlink()
    assert list(tmp_path.glob("*/*")) == []
    with pytest.raises(NotFound):
        await store.delete("one")


@pytest.mark.parametrize("field", ["name", "version", "accelerator", "cpu_model", "machine"])
async def test_only_an_equal_vmm_may_load_it(store: SnapshotStore, field: str) -> None:
    await publish(store, "one")
    manifest = store.get("one").manifest
    require_restorable(manifest, IDENTITY)
    with pytest.raises(Conflict, match="nothing was started") as caught:
        require_restorable(manifest, replace(IDENTITY, **{field: "other"}))
    assert caught.value.code == "snapshot_incompatible"


async def test_a_cancelled_publication_is_whole_or_not_there(store: SnapshotStore, tmp_path: Path) -> None:
    for turn in range(20):
        task = asyncio.create_task(publish(store, f"s{turn}"))
        await asyncio.sleep(turn / 2000)
        task.cancel()
        await asyncio.wait([task])
        assert store.damaged() == {}
        assert list((tmp_path / "staging").iterdir()) == []
