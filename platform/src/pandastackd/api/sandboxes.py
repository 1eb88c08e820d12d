"""Sandboxes: make, list, look, end, and what happened to them."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.responses import JSONResponse, Response

from pandastackd.api.dependencies import Caller, ControlDep, MetricsDep, body_of, json_body
from pandastackd.api.limits import check_env
from pandastackd.api.wire import CreateBody, SandboxInfo, UsageInfo, sandbox_info, time_text
from pandastackd.control import CreateRequest, Network
from pandastackd.errors import InvalidRequest, NotBuilt

router = APIRouter(tags=["sandboxes"])


@router.post(
    "/sandboxes",
    status_code=201,
    response_model=SandboxInfo,
    openapi_extra=body_of(CreateBody, required=False),
)
async def create_sandbox(
    body: Annotated[CreateBody, Depends(json_body(CreateBody))],
    request: Request,
    control: ControlDep,
    caller: Caller,
    metrics: MetricsDep,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Response:
    """Make a sandbox. Answers when it can run commands.

    503, 507 and 429 are only ever sent before anything was made. With an ``Idempotency-Key`` the same
    create is made once, however often it is sent; without one, a caller that goes away before the answer
    leaves nothing behind.
    """
    row = await control.sandboxes.create(caller, _wanted(body, idempotency_key))
    metrics.created(row.phases)
    if idempotency_key is None and await request.is_disconnected():
        await control.sandboxes.delete(caller, row.id, reason="the caller went away")
    return JSONResponse(sandbox_info(row), 201)


@router.get("/sandboxes", response_model=list[SandboxInfo])
async def list_sandboxes(control: ControlDep, caller: Caller) -> Response:
    """The workspace's sandboxes, newest first."""
    return JSONResponse([sandbox_info(row) for row in await control.sandboxes.listed(caller)])


@router.get("/sandboxes/{sandbox_id}", response_model=SandboxInfo)
async def get_sandbox(sandbox_id: str, control: ControlDep, caller: Caller) -> Response:
    """One sandbox."""
    return JSONResponse(sandbox_info(await control.sandboxes.get(caller, sandbox_id)))


@router.delete("/sandboxes/{sandbox_id}", status_code=204)
async def delete_sandbox(sandbox_id: str, control: ControlDep, caller: Caller) -> Response:
    """End a sandbox and remove everything of it."""
    await control.sandboxes.delete(caller, sandbox_id)
    return Response(status_code=204)


@router.get("/sandboxes/{sandbox_id}/metrics", response_model=UsageInfo)
async def get_metrics(sandbox_id: str, control: ControlDep, caller: Caller) -> Response:
    """What a sandbox's machine takes of its host just now; 409 when it has none."""
    used = await control.sandboxes.machine_usage(caller, sandbox_id)
    return JSONResponse(
        {
            "pid": used.pid,
            "uptime_seconds": used.uptime_seconds,
            "host_cpu_percent": used.cpu_percent,
            "host_rss_bytes": used.rss_bytes,
            "host_vsz_bytes": used.vsz_bytes,
            "threads": used.threads,
        }
    )


@router.get("/sandboxes/{sandbox_id}/events")
async def list_events(
    sandbox_id: str,
    control: ControlDep,
    caller: Caller,
    tail: Annotated[int, Query(ge=1, le=1000)] = 100,
    follow: bool = False,
) -> dict[str, list[dict[str, Any]]]:
    """What happened to a sandbox, oldest first; also to one that is gone."""
    if follow:
        raise NotBuilt("following events is not built yet; ask again with follow=false")
    found = await control.sandboxes.events(caller, sandbox_id, limit=tail)
    return {
        "events": [
            {
                "time": time_text(event.time),
                "sandbox_id": event.sandbox_id,
                "type": event.type,
                "payload": event.payload,
            }
            for event in found
        ]
    }


def _wanted(body: CreateBody, idempotency_key: str | None) -> CreateRequest:
    if body.volumes:
        raise NotBuilt("volumes are not built yet; create the sandbox without them", code="not_built")
    metadata, env = body.metadata or {}, body.env or {}
    check_env(env)
    if idempotency_key == "":
        raise InvalidRequest("Idempotency-Key is empty; send a unique text, or leave the header out")
    return CreateRequest(
        template=body.template,
        from_snapshot=body.from_snapshot,
        metadata=metadata,
        ttl_seconds=body.ttl_seconds,
        persistent=bool(body.persistent),
        on_timeout=body.on_timeout or "delete",
        env=env,
        network=Network()
        if body.network is None
        else Network(
            internet=body.network.internet,
            allow_out=body.network.allow_out,
            deny_out=body.network.deny_out,
            public_traffic=body.network.public_traffic,
            mask_host=body.network.mask_host,
        ),
        idempotency_key=idempotency_key,
        digest=hashlib.sha256(body.model_dump_json().encode()).hexdigest(),
    )
