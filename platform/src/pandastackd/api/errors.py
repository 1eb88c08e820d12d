"""Every error in one shape: ``{"error": text, "code": word, "request_id": id}``."""

from __future__ import annotations

import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse

from pandastackd.errors import InvalidRequest, PlatformError, Unauthenticated, VmmFailed

_HTTP_CODES = {404: "no_such_route", 405: "method_not_allowed"}


def install(app: FastAPI) -> None:
    """Have ``app`` answer every foreseen error in our shape; the unforeseen are ``middleware``'s."""
    app.add_exception_handler(PlatformError, _platform)
    app.add_exception_handler(RequestValidationError, _parameters)
    app.add_exception_handler(HTTPException, _http)


def error_response(error: PlatformError, request_id: str) -> JSONResponse:
    """The answer to a platform error."""
    headers: dict[str, str] = {}
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_seconds))
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    extra = {"console_tail": error.console_tail} if isinstance(error, VmmFailed) else {}
    return _body(error.http_status, error.message, error.code, request_id, headers, extra)


def internal_error(request_id: str) -> JSONResponse:
    """The answer when we ourselves are at fault; what happened is in the log, not in the answer."""
    message = f"the platform has a fault; its log tells more under request_id {request_id}"
    return _body(500, message, "internal", request_id)


def invalid(error: ValidationError | RequestValidationError) -> InvalidRequest:
    """The platform's error for what pydantic found, naming the fields."""
    problems = []
    unknown = False
    for problem in error.errors()[:8]:
        # Of a parameter, the first part says where it was looked for; of a body there is no such part.
        parts = problem["loc"][1:] if isinstance(error, RequestValidationError) else problem["loc"]
        where = ".".join(str(part) for part in parts)
        if problem["type"] == "extra_forbidden":
            unknown = True
            problems.append(f"unknown field {where!r}")
        elif problem["type"] == "missing":
            problems.append(f"{where!r} is missing")
        else:
            problems.append(f"{where!r}: {problem['msg']}" if where else str(problem["msg"]))
    return InvalidRequest("; ".join(problems), code="unknown_field" if unknown else "invalid_request")


def request_id_of(request: HTTPConnection) -> str:
    """The id that ``middleware`` gave this request."""
    found: str = request.scope.get("state", {}).get("request_id", "")
    return found


async def _platform(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, PlatformError)  # noqa: S101 - what the handler was installed for
    return error_response(error, request_id_of(request))


async def _parameters(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - what the handler was installed for
    return error_response(invalid(error), request_id_of(request))


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - what the handler was installed for
    message = {
        404: f"no route {request.method} {request.url.path}; see /docs for those there are",
        405: f"{request.url.path} does not take {request.method}; see /docs for what it takes",
    }.get(error.status_code, str(error.detail))
    code = _HTTP_CODES.get(error.status_code, "http_error")
    if not request.url.path.startswith("/v1/"):
        # Outside of /v1 only clients of E2B's API look for routes.
        told = {"code": error.status_code, "message": message, "error_code": code}
        return JSONResponse(told, status_code=error.status_code, headers=error.headers)
    return _body(error.status_code, message, code, request_id_of(request), dict(error.headers or {}))


def _body(
    status: int,
    message: str,
    code: str,
    request_id: str,
    headers: dict[str, str] | None = None,
    extra: dict[str, Any] | None = None,
) -> JSONResponse:
    content = {"error": message, "code": code, "request_id": request_id, **(extra or {})}
    return JSONResponse(content, status_code=status, headers=headers)
