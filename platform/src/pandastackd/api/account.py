"""Who am I, and the API keys of my workspace."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.responses import JSONResponse, Response

from pandastackd.api.dependencies import Caller, ControlDep, body_of, json_body
from pandastackd.api.wire import NewToken, TokenBody, TokenInfo, TokenList, time_text
from pandastackd.control import ApiKeyRow
from pandastackd.errors import InvalidRequest

router = APIRouter(tags=["account"])


@router.get("/me")
async def who_am_i(caller: Caller) -> dict[str, Any]:
    """The caller's workspace and key."""
    return {
        "user_id": caller.workspace,
        "email": None,
        "current_org": caller.workspace,
        "orgs": [{"id": caller.workspace, "name": caller.workspace}],
        "auth_method": "api_key",
        "key_prefix": caller.prefix,
    }


@router.get("/me/tokens")
async def list_tokens(control: ControlDep, caller: Caller) -> TokenList:
    """The workspace's API keys, newest first; never their secrets."""
    return TokenList(items=[TokenInfo(**_token(row)) for row in await control.keys.listed(caller)])


@router.post("/me/tokens", status_code=201, response_model=NewToken, openapi_extra=body_of(TokenBody))
async def create_token(
    body: Annotated[TokenBody, Depends(json_body(TokenBody))], control: ControlDep, caller: Caller
) -> Response:
    """Make an API key. Its secret is in this answer and never shown again."""
    if body.label is not None and body.name is not None and body.label != body.name:
        raise InvalidRequest("label and name are the same thing; send one of them")
    label = body.label if body.label is not None else body.name or ""
    secret, row = await control.keys.create(caller, label=label, expires_in_days=body.expires_in_days)
    return JSONResponse({"token": secret, **_token(row)}, 201, {"Cache-Control": "no-store"})


@router.delete("/me/tokens/{prefix}", status_code=204)
async def revoke_token(prefix: str, control: ControlDep, caller: Caller) -> Response:
    """Revoke an API key by its shown prefix."""
    await control.keys.revoke(caller, prefix)
    return Response(status_code=204)


def _token(row: ApiKeyRow) -> dict[str, Any]:
    return {
        "prefix": row.prefix,
        "label": row.label,
        "name": row.label,
        "created_at": time_text(row.created_at),
        "expires_at": row.expires_at and time_text(row.expires_at),
        "last_used_at": row.last_used_at and time_text(row.last_used_at),
    }
