"""Routes that E2B's clients know and this platform does not have yet: 400 with the capability's name."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter
from starlette.responses import Response

from pandastackd.api.e2b import wire
from pandastackd.api.e2b.route import E2bCaller, E2bRoute

router = APIRouter(route_class=E2bRoute, include_in_schema=False)

ROUTES: Final[dict[str, tuple[str, ...]]] = {
    "building templates": (
        "POST /templates",
        "POST /v2/templates",
        "POST /v3/templates",
        "POST /templates/{a}",
        "PATCH /templates/{a}",
        "PATCH /v2/templates/{a}",
        "GET /templates/{a}/files/{b}",
        "POST /templates/{a}/builds/{b}",
        "POST /v2/templates/{a}/builds/{b}",
        "GET /templates/{a}/builds/{b}/status",
        "GET /templates/{a}/builds/{b}/logs",
    ),
    "template tags": (
        "POST /templates/tags",
        "DELETE /templates/tags",
        "GET /templates/{a}/tags",
        "GET /templates/{a}/tags/count",
        "GET /templates/{a}/tags/exists",
        "GET /templates/{a}/tags/groups",
        "GET /templates/{a}/tags/{b}/assignments",
    ),
    "volumes": ("GET /volumes", "POST /volumes", "GET /volumes/{a}", "DELETE /volumes/{a}"),
    "secrets": (
        "GET /secrets",
        "POST /secrets",
        "GET /secrets/{a}",
        "POST /secrets/{a}",
        "DELETE /secrets/{a}",
    ),
}
"""Capability → the routes of its published clients."""


def _refuse(capability: str, method: str, path: str) -> None:
    @router.api_route(path, methods=[method])
    async def refuse(_caller: E2bCaller) -> Response:
        raise wire.not_supported(capability)


for _capability, _routes in ROUTES.items():
    for _route in _routes:
        _refuse(_capability, *_route.split(" "))
