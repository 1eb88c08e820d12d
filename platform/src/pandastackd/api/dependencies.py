"""What the routes ask for: the control plane, the caller, and a JSON body read the way the contract
demands.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from fastapi.security.utils import get_authorization_scheme_param
from pydantic import BaseModel, ValidationError
from starlette.requests import HTTPConnection

from pandastackd.api.errors import invalid
from pandastackd.config import Settings
from pandastackd.control import Control, Key, Principal
from pandastackd.errors import InvalidRequest, TooLarge
from pandastackd.gateway import UPGRADE, Gateway
from pandastackd.metrics import Metrics

MAX_BODY = 1024 * 1024
"""Largest JSON body, in bytes. Files do not come as JSON."""

M = TypeVar("M", bound=BaseModel)


def control_of(connection: HTTPConnection) -> Control:
    """The control plane behind the app."""
    control: Control = connection.app.state.control
    return control


def settings_of(request: Request) -> Settings:
    """The settings of the app."""
    settings: Settings = request.app.state.settings
    return settings


def gateway_of(request: Request) -> Gateway:
    """The gateway to sandboxes' ports."""
    shared: Gateway | None = request.app.state.gateway
    return shared or Gateway(control_of(request).traffic)


def metrics_of(request: Request) -> Metrics:
    """The metrics of the app."""
    metrics: Metrics = request.app.state.metrics
    return metrics


def presented_key(connection: HTTPConnection, *, in_query: bool = False) -> str | None:
    """The key a call carries: ``Authorization: Bearer``, ``X-API-Key``, or ``?access_token=`` where that
    is allowed.
    """
    scheme, credentials = get_authorization_scheme_param(connection.headers.get("authorization"))
    if scheme.lower() == "bearer" and credentials:
        return credentials
    key = connection.headers.get("x-api-key")
    if key is None and in_query:
        return connection.query_params.get("access_token")
    return key


async def caller_of(request: Request) -> Principal:
    """Who is calling. Raises Unauthenticated."""
    # Browsers cannot send a header with a WebSocket.
    in_query = UPGRADE in request.scope.get("extensions", {})
    return await control_of(request).keys.authenticate(presented_key(request, in_query=in_query))


ControlDep = Annotated[Control, Depends(control_of)]
SettingsDep = Annotated[Settings, Depends(settings_of)]
MetricsDep = Annotated[Metrics, Depends(metrics_of)]
Caller = Annotated[Principal, Depends(caller_of)]


def json_body(model: type[M]) -> Callable[[Request], Awaitable[M]]:
    """A dependency that reads the body as ``model``.

    The content type is not looked at, and an empty body is ``{}``: published clients send body-less calls
    as ``text/plain``.
    """

    async def read(request: Request) -> M:
        raw = await read_bounded(request)
        if not raw.strip():
            raw = b"{}"
        try:
            parsed = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"the body is not JSON: {error}", code="not_json") from None
        if not isinstance(parsed, dict):
            raise InvalidRequest("the body must be a JSON object", code="not_json")
        try:
            return model.model_validate(parsed)
        except ValidationError as error:
            raise invalid(error) from None

    return read


def key_of(idempotency_key: str | None, call: str, body: BaseModel) -> Key | None:
    """The caller's name for this call, if it gave one. Raises InvalidRequest when it is empty or too long."""
    if idempotency_key is None:
        return None
    asked = f"{call} {body.model_dump_json()}"
    return Key(idempotency_key, hashlib.sha256(asked.encode()).hexdigest())


async def read_bounded(request: Request) -> bytes:
    """The whole body. Raises TooLarge beyond ``MAX_BODY``."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise TooLarge(f"the body is too large: at most {MAX_BODY} bytes of JSON are taken")
    return bytes(body)


def body_of(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """``openapi_extra`` for a route that reads ``model`` by :func:`json_body`."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    return {
        "requestBody": {
            "required": required,
            "content": {"application/json": {"schema": _inlined(schema, definitions)}},
        }
    }


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """``schema`` with its references replaced by what they stand for; none of our bodies is recursive."""
    if isinstance(schema, list):
        return [_inlined(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].removeprefix("#/$defs/")], definitions)
    return {key: _inlined(value, definitions) for key, value in schema.items()}
