"""For operators: alive, which version, how busy. At the root and without a key, so nothing of a tenant is
in here.
"""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from pandastackd.api.dependencies import ControlDep, MetricsDep
from pandastackd.errors import PlatformError
from pandastackd.metrics import CONTENT_TYPE

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def health(control: ControlDep) -> Response:
    """200 while requests can be served; 503 with the reason when the database does not answer."""
    try:
        await control.ping()
    except PlatformError as error:
        return JSONResponse({"status": "failing", "error": error.message, "code": error.code}, 503)
    return JSONResponse({"status": "ok"})


@router.get("/version")
async def show_version() -> dict[str, str]:
    """The platform's version and that of its API."""
    return {"version": version("pandastackd"), "api": "v1"}


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def show_metrics(control: ControlDep, metrics: MetricsDep) -> Response:
    """Counters and timings in Prometheus' text format."""
    return Response(metrics.render(await control.sandboxes.counts()), media_type=CONTENT_TYPE)
