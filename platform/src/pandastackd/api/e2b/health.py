"""Whether anything answers: the one route of E2B's that asks for no key."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from pandastackd.api.e2b.route import E2bRoute

router = APIRouter(route_class=E2bRoute)


@router.get("/health")
async def health() -> Response:
    """200 while requests can be served; ``/healthz`` tells more."""
    return JSONResponse({"status": "ok"})
