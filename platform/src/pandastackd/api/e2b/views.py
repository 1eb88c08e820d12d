"""Rows as E2B's clients see them."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import Depends

from pandastackd.api.dependencies import ControlDep, SettingsDep
from pandastackd.api.wire import time_text
from pandastackd.control import Network, SandboxRow
from pandastackd.errors import NotFound
from pandastackd.lifecycle import State

CLIENT_ID: Final = "pandastack"
"""A field of old clients that nothing depends on any more."""

NEVER: Final = "9999-12-31T23:59:59.000Z"
"""When a persistent sandbox ends; the contract demands a time."""

STATES: Final = {
    State.RUNNING.value: "running",
    State.PAUSED.value: "paused",
    State.HIBERNATED.value: "paused",
}
"""Our states by the name these clients have for them; a sandbox in any other is not shown."""


class Views:
    """What these clients are told of sandboxes, on this platform."""

    def __init__(self, control: ControlDep, settings: SettingsDep) -> None:
        self._control = control
        self._domain = settings.domain

    def handle(self, row: SandboxRow) -> dict[str, Any]:
        """What a client needs to talk to a sandbox."""
        return {
            "templateID": row.template,
            "alias": row.template,
            "sandboxID": row.id,
            "clientID": CLIENT_ID,
            "envdVersion": row.envd_version,
            "envdAccessToken": self._control.tokens.of(row.id),
            "trafficAccessToken": self._traffic_token(row),
            "domain": self._domain,
        }

    async def listed(self, *rows: SandboxRow) -> list[dict[str, Any]]:
        """Sandboxes in a list."""
        disks = {template.name: template.disk_mib for template in await self._control.templates.listed()}
        return [
            {
                "templateID": row.template,
                "alias": row.template,
                "sandboxID": row.id,
                "clientID": CLIENT_ID,
                "startedAt": time_text(row.created_at),
                "endAt": NEVER if row.expires_at is None else time_text(row.expires_at),
                "cpuCount": row.vcpus,
                "memoryMB": row.memory_mib,
                "diskSizeMB": disks.get(row.template, 0),
                "state": STATES[row.state],
                "metadata": row.labels,
                "envdVersion": row.envd_version,
            }
            for row in rows
        ]

    async def detail(self, row: SandboxRow) -> dict[str, Any]:
        """A sandbox by itself."""
        (listed,) = await self.listed(row)
        network = Network.of(row.network)
        return {
            **listed,
            "domain": self._domain,
            "envdAccessToken": self._control.tokens.of(row.id),
            "allowInternetAccess": network.internet,
            "network": {
                "allowOut": network.allow_out,
                "denyOut": network.deny_out,
                "allowPublicTraffic": network.public_traffic,
                **({"maskRequestHost": network.mask_host} if network.mask_host else {}),
            },
            "lifecycle": {
                "autoResume": row.wake_on_traffic,
                "onTimeout": "pause" if row.on_timeout == "hibernate" else "kill",
            },
        }

    def _traffic_token(self, row: SandboxRow) -> str | None:
        return None if Network.of(row.network).public_traffic else self._control.tokens.traffic(row.id)


ViewsDep = Annotated[Views, Depends(Views)]


def shown(row: SandboxRow) -> SandboxRow:
    """``row``, if these clients have a word for its state.

    Raises:
        NotFound: it failed, or is being made or deleted.
    """
    if row.state not in STATES:
        reason = f" ({row.failure})" if row.failure else ""
        raise NotFound(f"sandbox {row.id} is {row.state}{reason}", code="sandbox_not_found")
    return row
