"""What stands on this host's shelf, as the control plane is told of it: baked templates and users' snapshots."""

from __future__ import annotations

from pandastackd.agent.rooms import Rooms
from pandastackd.domain import SnapshotReport, TemplateReport
from pandastackd.errors import Conflict
from pandastackd.snapshot import About, Kind, Snapshot, require_restorable
from pandastackd.snapshot.capture import CaptureTiming


def template_reports(rooms: Rooms) -> list[TemplateReport]:
    """The newest bake of every template, by name; bakes that this host's VMM cannot load are left out."""
    newest: dict[str, Snapshot] = {}
    for snapshot in rooms.snapshots.list():
        if snapshot.manifest.kind is Kind.TEMPLATE and _restorable(rooms, snapshot):
            newest[snapshot.manifest.template] = snapshot
    return [_report(rooms, newest[name]) for name in sorted(newest)]


def user_snapshots(rooms: Rooms) -> list[str]:
    """Ids of users' snapshots; those that cannot be read count too, so that nobody takes them for gone."""
    kept = [snapshot.id for snapshot in rooms.snapshots.list() if snapshot.manifest.kind is Kind.SNAPSHOT]
    return [*kept, *rooms.snapshots.damaged()]


def snapshot_report(snapshot: Snapshot, timing: CaptureTiming) -> SnapshotReport:
    """What is told of a snapshot that was just taken."""
    manifest = snapshot.manifest
    return SnapshotReport(
        id=snapshot.id,
        vcpus=manifest.vcpus,
        memory_mib=manifest.memory_mib,
        size_bytes=snapshot.size_bytes(),
        parent_pause_ms=timing.pause_ms,
        capture_ms=timing.prepare_ms + timing.pause_ms,
        dirty_bytes=timing.memory.bytes,
    )


def _restorable(rooms: Rooms, snapshot: Snapshot) -> bool:
    try:
        require_restorable(snapshot.manifest, rooms.driver.identity())
    except Conflict:
        return False
    return True


def _report(rooms: Rooms, snapshot: Snapshot) -> TemplateReport:
    manifest = snapshot.manifest
    about = manifest.about or About()
    return TemplateReport(
        name=manifest.template,
        snapshot_id=snapshot.id,
        vcpus=manifest.vcpus,
        memory_mib=manifest.memory_mib,
        disk_mib=manifest.disk_mib,
        size_bytes=snapshot.size_bytes(),
        rootfs_path=str(snapshot.disk),
        label=about.label,
        description=about.description,
        category=about.category,
        base=about.base,
        tools=about.tools,
        aliases=about.aliases,
        built_at=manifest.created_at.isoformat(),
        # Not the one it was baked with: a sandbox gets this host's agent before anybody sees it.
        envd_version=rooms.guest_agent.build.envd_version,
    )
