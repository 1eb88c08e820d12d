"""Forks: children that go on from a running sandbox's memory and disk; fork trees, promotion, lineage."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request
from starlette.responses import JSONResponse, Response

from pandastackd.api.dependencies import Caller, ControlDep, body_of, json_body, key_of
from pandastackd.api.wire import (
    ForkBody,
    ForkInfo,
    ForkTreeBody,
    ForkTreeInfo,
    PromoteBody,
    PromotionInfo,
    TreeInfo,
    sandbox_info,
    time_text,
)
from pandastackd.control import Control, Fork, ForkRequest, Node, Principal

router = APIRouter(prefix="/sandboxes/{sandbox_id}", tags=["forks"])


@router.post(
    "/fork", status_code=201, response_model=ForkInfo, openapi_extra=body_of(ForkBody, required=False)
)
async def fork_sandbox(
    sandbox_id: str,
    body: Annotated[ForkBody, Depends(json_body(ForkBody))],
    request: Request,
    control: ControlDep,
    caller: Caller,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Response:
    """Fork a sandbox into ``count`` children from one instant; it goes on.

    201 when at least one child was made; ``failures`` says why others were not. 503 and 507 are only sent when
    nothing was made. Children inherit template, metadata, time to live and ``on_timeout``, but not ``persistent``.
    """
    wanted = ForkRequest(
        count=body.count,
        metadata=body.metadata or {},
        key=key_of(idempotency_key, f"fork {sandbox_id}", body),
    )
    fork = await _forked(control, caller, sandbox_id, wanted, request)
    infos = [sandbox_info(child) for child in fork.children]
    return JSONResponse(
        {
            **_common(fork),
            "children": [child.id for child in fork.children],
            "sandbox": infos[0],
            "sandboxes": infos,
        },
        201,
    )


@router.post("/fork-tree", status_code=201, response_model=ForkTreeInfo, openapi_extra=body_of(ForkTreeBody))
async def fork_tree(
    sandbox_id: str,
    body: Annotated[ForkTreeBody, Depends(json_body(ForkTreeBody))],
    request: Request,
    control: ControlDep,
    caller: Caller,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Response:
    """Fork a sandbox into branches that belong together, of which one is promoted later. Answers as ``fork`` does."""
    wanted = ForkRequest(
        count=body.count,
        metadata=body.metadata or {},
        tree=True,
        key=key_of(idempotency_key, f"fork-tree {sandbox_id}", body),
    )
    fork = await _forked(control, caller, sandbox_id, wanted, request)
    children = [sandbox_info(child) for child in fork.children]
    return JSONResponse({"tree_id": fork.tree_id, **_common(fork), "children": children}, 201)


@router.post("/promote", response_model=PromotionInfo, openapi_extra=body_of(PromoteBody, required=False))
async def promote_branch(
    sandbox_id: str,
    body: Annotated[PromoteBody, Depends(json_body(PromoteBody))],
    control: ControlDep,
    caller: Caller,
) -> Response:
    """Make a branch the winner of its fork tree, and delete its siblings if wished. A tree has one winner."""
    done = await control.forks.promote(
        caller, sandbox_id, tree_id=body.tree_id, cleanup_siblings=body.cleanup_siblings
    )
    return JSONResponse(
        {"winner": done.winner, "tree_id": done.tree_id, "deleted": done.deleted, "failures": done.failures}
    )


@router.get("/tree", response_model=TreeInfo)
async def get_tree(sandbox_id: str, control: ControlDep, caller: Caller) -> Response:
    """The tree of forks that a sandbox stands in, from its first ancestor; those that are gone are ``deleted``."""
    root = await control.lineage.tree(caller, sandbox_id)
    return Response(_tree_json(root), media_type="application/json")


async def _forked(
    control: Control, caller: Principal, sandbox_id: str, wanted: ForkRequest, request: Request
) -> Fork:
    fork = await control.forks.fork(caller, sandbox_id, wanted)
    if wanted.key is None and await request.is_disconnected():
        await control.forks.delete(caller, fork, reason="the caller went away")
    return fork


def _common(fork: Fork) -> dict[str, Any]:
    return {
        "parent_id": fork.parent_id,
        "snapshot_id": fork.snapshot_id,
        "at": time_text(fork.at),
        "parent_pause_ms": fork.parent_pause_ms,
        "capture_ms": fork.capture_ms,
        "failures": list(fork.failures),
    }


def _tree_json(root: Node) -> str:
    """The tree as JSON; without recursion, since forks of forks may be deeper than a call stack."""
    pieces: list[str] = []
    pending: list[Node | str] = [root]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            pieces.append(item)
            continue
        facts = {
            "id": item.id,
            "status": item.status,
            "template": item.template,
            "created_at": None if item.created_at is None else time_text(item.created_at),
            "metadata": item.metadata,
        }
        pieces.append(json.dumps(facts)[:-1] + ', "children": [')
        pending.append("]}")
        for index, child in reversed(list(enumerate(item.children))):
            pending.append(child)
            if index:
                pending.append(", ")
    return "".join(pieces)
