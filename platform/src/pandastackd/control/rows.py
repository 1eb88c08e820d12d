"""From what control decides and what a host reports to the values of a row."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from pandastackd.config import Settings
from pandastackd.control.lifetime import TtlFrom, end_after_move
from pandastackd.domain import SandboxReport
from pandastackd.lifecycle import State
from pandastackd.store import EventRow, SandboxRow
from pandastackd.store.sandboxes import expiry

UNCLAIMED: dict[str, Any] = {"operation": None, "operation_until": None}
"""The values of a row that nobody moves."""


def fresh(
    *,
    sandbox_id: str,
    workspace: str,
    host: str,
    template: str,
    snapshot_id: str,
    from_snapshot: str | None,
    vcpus: int,
    memory_mib: int,
    metadata: dict[str, str],
    ttl_seconds: int,
    persistent: bool,
    now: datetime,
    lease: timedelta,
    on_timeout: str = "delete",
    ttl_from: TtlFrom = TtlFrom.USE,
    wake_on_traffic: bool = True,
    network: dict[str, Any] | None = None,
    parent_id: str | None = None,
    root_id: str | None = None,
    tree_id: str | None = None,
) -> SandboxRow:
    """The row of a sandbox that is about to be made, claimed by its maker for the length of ``lease``.

    Args:
        parent_id: whom it is forked of; then ``root_id`` is the first of the line.
    """
    return SandboxRow(
        id=sandbox_id,
        workspace=workspace,
        host=host,
        template=template,
        snapshot_id=snapshot_id,
        from_snapshot=from_snapshot,
        parent_id=parent_id,
        root_id=root_id or sandbox_id,
        tree_id=tree_id,
        state=State.CREATING.value,
        operation="create",
        operation_until=now + lease,
        labels=metadata,
        ttl_seconds=ttl_seconds,
        ttl_from=ttl_from.value,
        wake_on_traffic=wake_on_traffic,
        network=network or {},
        on_timeout=on_timeout,
        persistent=persistent,
        created_at=now,
        last_used_at=now,
        expires_at=expiry(persistent, ttl_seconds, now),
        vcpus=vcpus,
        memory_mib=memory_mib,
        guest_ip="",
        host_tap="",
        mac="",
        boot_mode="",
        boot_ms=None,
        phases={},
        failure=None,
        console_tail="",
        envd_version="",
    )


def started(row: SandboxRow, report: SandboxReport, state: State, now: datetime) -> dict[str, Any]:
    """What changes when the host has made the sandbox; its time to live begins now."""
    return {
        **UNCLAIMED,
        "state": state.value,
        "last_used_at": now,
        "expires_at": expiry(row.persistent, row.ttl_seconds, now),
        "vcpus": report.vcpus,
        "memory_mib": report.memory_mib,
        "guest_ip": report.guest_ip,
        "host_tap": report.host_tap,
        "mac": report.mac,
        "boot_mode": report.boot_mode,
        "boot_ms": round(report.phases.total, 2),
        "phases": report.phases.as_dict(),
        "envd_version": report.envd_version,
    }


def moved(
    row: SandboxRow, report: SandboxReport, state: State, now: datetime, settings: Settings
) -> dict[str, Any]:
    """What changes when the host has moved the sandbox to ``state``."""
    return {
        **UNCLAIMED,
        "state": state.value,
        "last_used_at": now,
        "expires_at": end_after_move(row, state, now, settings),
        "guest_ip": report.guest_ip,
        "host_tap": report.host_tap,
        "mac": report.mac,
        "envd_version": report.envd_version,
        "failure": None,
        "console_tail": "",
    }


def failed(state: State, reason: str, console_tail: str) -> dict[str, Any]:
    """What changes when the machine has died."""
    return {**UNCLAIMED, "state": state.value, "failure": reason, "console_tail": console_tail}


def event(row: SandboxRow, kind: str, now: datetime, **payload: Any) -> EventRow:
    """An event of this sandbox."""
    return happened(row.workspace, row.id, kind, now, **payload)


def happened(workspace: str, sandbox_id: str, kind: str, now: datetime, **payload: Any) -> EventRow:
    """An event of a sandbox that may be gone."""
    return EventRow(workspace=workspace, sandbox_id=sandbox_id, type=kind, payload=payload, time=now)
