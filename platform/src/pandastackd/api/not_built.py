"""Published routes of capabilities that this version does not have yet: 501 and the capability's name.

A line leaves this table when its capability arrives. What is in no table is a 404.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter
from starlette.responses import Response

from pandastackd.api.dependencies import Caller
from pandastackd.errors import NotBuilt

router = APIRouter()

_SANDBOX = "/sandboxes/{sandbox_id}"

ROUTES: dict[str, tuple[str, ...]] = {
    "series of metrics": (
        "GET /metrics/overview",
        "GET /metrics/sandbox/{sandbox_id}",
    ),
    "template builds": (
        "GET /templates/builds",
        "GET /templates/builds/{build_id}",
        "GET /templates/builds/{build_id}/logs",
        "POST /templates/build",
        "DELETE /templates/{name}",
    ),
    "volumes": ("GET /volumes", "POST /volumes", "GET /volumes/{name}", "DELETE /volumes/{name}"),
    "databases": (
        "GET /databases",
        "POST /databases",
        "GET /databases/{database_id}",
        "PATCH /databases/{database_id}",
        "DELETE /databases/{database_id}",
        "GET /databases/{database_id}/connection",
        "POST /databases/{database_id}/failover",
        "POST /databases/{database_id}/wake",
        "POST /databases/{database_id}/clone",
        "POST /databases/{database_id}/reset-credentials",
    ),
    "functions": (
        "GET /functions",
        "POST /functions",
        "GET /functions/{function_id}",
        "PATCH /functions/{function_id}",
        "DELETE /functions/{function_id}",
        "GET /functions/{function_id}/code",
        "POST /functions/{function_id}/deploy",
        "POST /functions/{function_id}/invoke",
        "GET /functions/{function_id}/runs",
        "POST /functions/{function_id}/runs",
        "GET /functions/{function_id}/metrics",
    ),
    "schedules": (
        "GET /schedules",
        "POST /schedules",
        "GET /schedules/{schedule_id}",
        "PATCH /schedules/{schedule_id}",
        "DELETE /schedules/{schedule_id}",
        "POST /schedules/{schedule_id}/trigger",
        "GET /schedules/{schedule_id}/runs",
    ),
    "apps": (
        "GET /apps",
        "POST /apps",
        "GET /apps/{app_id}",
        "PATCH /apps/{app_id}",
        "DELETE /apps/{app_id}",
        "GET /apps/{app_id}/deploys",
        "POST /apps/{app_id}/deploys",
        "GET /apps/{app_id}/deploys/{deploy_id}",
        "GET /apps/{app_id}/deploys/{deploy_id}/logs",
        "POST /apps/{app_id}/rollback",
        "GET /apps/{app_id}/env",
        "PUT /apps/{app_id}/env/{key}",
        "DELETE /apps/{app_id}/env/{key}",
        "POST /apps/{app_id}/env/import",
        "GET /apps/{app_id}/domains",
        "POST /apps/{app_id}/domains",
        "GET /apps/{app_id}/domains/{domain}",
        "DELETE /apps/{app_id}/domains/{domain}",
        "GET /preview-repos",
        "POST /preview-repos",
        "DELETE /preview-repos/{repo_id}",
        "GET /repos/{repo_id}/preview-env",
        "PUT /repos/{repo_id}/preview-env/{key}",
        "DELETE /repos/{repo_id}/preview-env/{key}",
        "POST /repos/{repo_id}/preview-env/import",
    ),
}


def _not_built(capability: str) -> NotBuilt:
    return NotBuilt(f"{capability}: not built in this version; see the changelog for what is")


def _refuse(capability: str) -> Callable[..., Awaitable[Response]]:
    async def refuse(_caller: Caller) -> Response:
        raise _not_built(capability)

    return refuse


for _capability, _routes in ROUTES.items():
    for _route in _routes:
        _method, _, _path = _route.partition(" ")
        router.add_api_route(_path, _refuse(_capability), methods=[_method], include_in_schema=False)
