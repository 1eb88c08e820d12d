"""A sandbox's network: where it may connect to, and who may reach it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.responses import JSONResponse, Response

from pandastackd.api.dependencies import Caller, ControlDep, body_of, json_body
from pandastackd.api.wire import EgressBody, NetworkInfo
from pandastackd.control import Control, Network, SandboxRow

router = APIRouter(prefix="/sandboxes/{sandbox_id}/network", tags=["network"])


@router.get("", response_model=NetworkInfo)
async def get_network(sandbox_id: str, control: ControlDep, caller: Caller) -> Response:
    """What its network may do."""
    return JSONResponse(_info(control, await control.sandboxes.get(caller, sandbox_id)))


@router.put("", response_model=NetworkInfo, openapi_extra=body_of(EgressBody))
async def put_network(
    sandbox_id: str,
    body: Annotated[EgressBody, Depends(json_body(EgressBody))],
    control: ControlDep,
    caller: Caller,
) -> Response:
    """Change where it may connect to, as a whole and at once: connections that are no longer allowed end."""
    row = await control.sandboxes.set_network(
        caller, sandbox_id, internet=body.internet, allow_out=body.allow_out, deny_out=body.deny_out
    )
    return JSONResponse(_info(control, row))


def _info(control: Control, row: SandboxRow) -> dict[str, Any]:
    network = Network.of(row.network)
    token = None if network.public_traffic else control.tokens.traffic(row.id)
    return {**network.as_dict(), "traffic_token": token}
