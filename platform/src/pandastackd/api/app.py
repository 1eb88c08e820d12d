"""The application: which routes there are, and what surrounds all of them."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from starlette.middleware.cors import CORSMiddleware

from pandastackd.api import (
    account,
    docs,
    e2b,
    errors,
    execution,
    files,
    forks,
    health,
    lifecycle,
    logs,
    mcp,
    network,
    not_built,
    ports,
    repl,
    sandboxes,
    snapshots,
    templates,
    terminals,
)
from pandastackd.api.dependencies import caller_of
from pandastackd.api.middleware import Envelope
from pandastackd.api.wire import ErrorBody
from pandastackd.config import Settings
from pandastackd.control import Control
from pandastackd.gateway import Gateway
from pandastackd.metrics import Metrics

_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request cannot be honoured; says why and what to do"},
    "5XX": {"model": ErrorBody, "description": "The platform failed, or has no room"},
}

_CORS: dict[str, Any] = {
    "allow_methods": ["GET", "POST", "PUT", "PATCH", "DELETE"],
    "allow_headers": ["authorization", "content-type", "idempotency-key", "x-api-key", "x-request-id"],
    "expose_headers": ["retry-after", "x-request-id"],
    # Keys come in a header that the page's own code sets; a browser must never send something by itself.
    "allow_credentials": False,
    "max_age": 3600,
}


def create_app(
    control: Control,
    settings: Settings,
    metrics: Metrics | None = None,
    gateway: Gateway | None = None,
) -> FastAPI:
    """The HTTP API over ``control``.

    Args:
        settings: where large command output is spooled (the data directory).
        metrics: where requests and creates are counted; its own when not given.
        gateway: the way to sandboxes' ports; when not given, each request makes one.
    """
    app = FastAPI(
        title="PandaStack",
        version=version("pandastackd"),
        summary="Sandboxes in microVMs restored from baked snapshots.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.control = control
    app.state.settings = settings
    app.state.metrics = metrics = metrics or Metrics()
    app.state.gateway = gateway
    errors.install(app)
    v1 = APIRouter(prefix="/v1", responses=_ERRORS)
    # not_built goes first: its fixed paths must win over {name} of the others.
    v1.include_router(not_built.router)
    for router in (
        account.router,
        sandboxes.router,
        lifecycle.router,
        network.router,
        snapshots.router,
        forks.router,
        execution.router,
        repl.router,
        logs.router,
        ports.router,
        files.router,
        templates.router,
        mcp.router,
    ):
        # Who calls is asked before anything else, so that a stranger has no body read and learns no rules.
        v1.include_router(router, dependencies=[Depends(caller_of)])
    # Browsers cannot send a header with these: each asks by itself who calls, or has a token in its path.
    v1.include_router(terminals.router)
    v1.include_router(ports.public)
    app.include_router(v1)
    app.include_router(mcp.root_router)
    app.include_router(health.router)
    # Another platform's contract, written down by them; our own description stays our own.
    app.include_router(e2b.router, include_in_schema=False)
    app.include_router(docs.router)
    if settings.cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=settings.cors_origins, **_CORS)
    app.add_middleware(Envelope, metrics=metrics)
    return app
