"""Sandboxes: make, list, look, end."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal, TypeVar
from urllib.parse import parse_qsl, unquote

from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.responses import JSONResponse, Response

from pandastackd.api.dependencies import ControlDep, MetricsDep, body_of, json_body
from pandastackd.api.e2b import wire
from pandastackd.api.e2b.route import E2bCaller, E2bRoute
from pandastackd.api.e2b.views import STATES, ViewsDep, shown
from pandastackd.api.limits import check_env
from pandastackd.control import Control, CreateRequest, Principal, SandboxRow, SnapshotRow, TtlFrom
from pandastackd.errors import InvalidRequest, NotFound

router = APIRouter(route_class=E2bRoute)

MOST_LISTED = 100

Row = TypeVar("Row", SandboxRow, SnapshotRow)


@router.post("/sandboxes", status_code=201, openapi_extra=body_of(wire.NewSandbox))
@router.post("/v2/sandboxes", status_code=201, openapi_extra=body_of(wire.NewSandbox))
async def create(
    body: Annotated[wire.NewSandbox, Depends(json_body(wire.NewSandbox))],
    request: Request,
    control: ControlDep,
    caller: E2bCaller,
    views: ViewsDep,
    metrics: MetricsDep,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Response:
    """Make a sandbox from a template or a snapshot. Answers when it can run commands."""
    body.check()
    metadata, env = body.metadata or {}, body.env_vars or {}
    check_env(env)
    template, snapshot = await origin(control, caller, body.template_id)
    wanted = CreateRequest(
        template=template,
        from_snapshot=snapshot,
        metadata=metadata,
        # 0 is as little as there is.
        ttl_seconds=max(1, body.timeout),
        ttl_from=TtlFrom.SET,
        env=env,
        on_timeout="hibernate" if body.auto_pause else "delete",
        network=body.wanted_network(),
        wake_on_traffic=body.auto_resume is None or body.auto_resume.enabled,
        idempotency_key=idempotency_key or None,
        digest=hashlib.sha256(f"e2b:{body.model_dump_json()}".encode()).hexdigest(),
    )
    row = await control.sandboxes.create(caller, wanted)
    metrics.created(row.phases)
    if wanted.idempotency_key is None and await request.is_disconnected():
        await control.sandboxes.delete(caller, row.id, reason="the caller went away")
    return JSONResponse(views.handle(row), 201)


@router.get("/sandboxes")
async def list_running(
    control: ControlDep, caller: E2bCaller, views: ViewsDep, metadata: str | None = None
) -> Response:
    """The running sandboxes; the address of old clients."""
    rows = _filtered(await control.sandboxes.listed(caller), {"running"}, _labels(metadata))
    return JSONResponse(await views.listed(*rows))


@router.get("/v2/sandboxes")
async def list_sandboxes(
    control: ControlDep,
    caller: E2bCaller,
    views: ViewsDep,
    metadata: str | None = None,
    state: Annotated[list[str] | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = MOST_LISTED,
    next_token: Annotated[str | None, Query(alias="nextToken")] = None,
    order: Literal["asc", "desc"] = "desc",
    started_after: Annotated[datetime | None, Query(alias="startedAfter")] = None,
    template: str | None = None,
) -> Response:
    """The sandboxes, newest first, a page at a time: ``x-next-token`` asks for the next one."""
    states = {word for words in state or ["running,paused"] for word in words.split(",") if word}
    if unknown := states - {"running", "paused"}:
        raise InvalidRequest(f"state is running or paused, not {', '.join(sorted(unknown))}")
    rows = _filtered(await control.sandboxes.listed(caller), states, _labels(metadata))
    if started_after is not None:
        if started_after.tzinfo is None:
            raise InvalidRequest("startedAfter needs a time zone")
        rows = [row for row in rows if row.created_at >= started_after]
    if template is not None:
        rows = [row for row in rows if template in (row.template, row.from_snapshot)]
    rows = page_after(rows, next_token, newest_first=order == "desc")
    page = rows[:limit]
    headers = {"x-next-token": page_token(page[-1])} if len(rows) > limit else {}
    return JSONResponse(await views.listed(*page), headers=headers)


@router.get("/sandboxes/{sandbox_id}")
async def get(sandbox_id: str, control: ControlDep, caller: E2bCaller, views: ViewsDep) -> Response:
    """One sandbox."""
    return JSONResponse(await views.detail(shown(await control.sandboxes.get(caller, sandbox_id))))


@router.delete("/sandboxes/{sandbox_id}", status_code=204)
async def delete(sandbox_id: str, control: ControlDep, caller: E2bCaller) -> Response:
    """End a sandbox and remove everything of it."""
    await control.sandboxes.delete(caller, sandbox_id)
    return Response(status_code=204)


async def origin(control: Control, caller: Principal, name: str) -> tuple[str, str | None]:
    """The template, or the caller's own snapshot, that goes by this name; these clients know no difference."""
    name = name.removesuffix(":default")
    try:
        return (await control.templates.find(name)).name, None
    except NotFound as error:
        try:
            return name, (await control.snapshots.find(caller, name)).id
        except NotFound:
            raise error from None


def _filtered(rows: Sequence[SandboxRow], states: set[str], labels: dict[str, str]) -> list[SandboxRow]:
    return [row for row in rows if STATES.get(row.state) in states and labels.items() <= row.labels.items()]


def _labels(text: str | None) -> dict[str, str]:
    """The labels asked for: a query string inside a query parameter, whose parts are quoted once more."""
    pairs = parse_qsl(text or "", keep_blank_values=True)
    return {unquote(name): unquote(value) for name, value in pairs}


def page_after(rows: Sequence[Row], next_token: str | None, *, newest_first: bool = True) -> list[Row]:
    """``rows`` in order, from where the page before ended.

    Raises:
        InvalidRequest: the token is none of ours.
    """
    placed = sorted(rows, key=_place, reverse=newest_first)
    if next_token is None:
        return placed
    after = _read_token(next_token)
    return [row for row in placed if (_place(row) < after if newest_first else _place(row) > after)]


def _place(row: SandboxRow | SnapshotRow) -> tuple[str, str]:
    return row.created_at.isoformat(), row.id


def page_token(row: SandboxRow | SnapshotRow) -> str:
    """What asks for the page after the one that ends with ``row``."""
    return base64.urlsafe_b64encode("|".join(_place(row)).encode()).decode().rstrip("=")


def _read_token(token: str) -> tuple[str, str]:
    try:
        text = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
    except (binascii.Error, ValueError):
        text = ""
    created, bar, sandbox_id = text.partition("|")
    if not bar:
        raise InvalidRequest("nextToken is not one that this API gave out")
    return created, sandbox_id
