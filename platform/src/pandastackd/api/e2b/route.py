"""What all these routes share: who is calling, and errors in the shape that these clients read."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import structlog
from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from pandastackd.api.dependencies import control_of, presented_key
from pandastackd.api.errors import invalid, request_id_of
from pandastackd.control import Principal
from pandastackd.errors import PlatformError

log = structlog.get_logger(__name__)


class E2bRoute(APIRoute):
    """A route whose foreseen errors are answered as E2B's API does."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with errors translated."""
        handler = super().get_route_handler()

        async def translated(request: Request) -> Response:
            try:
                return await handler(request)
            except RequestValidationError as error:
                return _answer(invalid(error))
            except PlatformError as error:
                return _answer(error)
            except ClientDisconnect:
                raise
            except Exception:
                # Clients cannot read the answer that the API has for this elsewhere.
                request_id = request_id_of(request)
                log.exception("request.fault", request_id=request_id, path=request.url.path)
                return _answer(
                    PlatformError(
                        f"the platform has a fault; its log tells more under request_id {request_id}"
                    )
                )

        return translated


async def caller_of(request: Request) -> Principal:
    """Who is calling. Raises Unauthenticated."""
    # Some versions send a second credential, which is not ours, as a bearer token.
    key = request.headers.get("x-api-key") or presented_key(request)
    return await control_of(request).keys.authenticate(key)


E2bCaller = Annotated[Principal, Depends(caller_of)]


def error_body(error: PlatformError) -> dict[str, Any]:
    """An error as these clients read it."""
    return {"code": error.http_status, "message": error.message, "error_code": error.code}


def _answer(error: PlatformError) -> JSONResponse:
    headers = {}
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_seconds))
    return JSONResponse(error_body(error), status_code=error.http_status, headers=headers)
