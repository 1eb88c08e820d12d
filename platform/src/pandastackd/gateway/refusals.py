"""What a client is told when its traffic cannot reach a sandbox.

Clients of the field recognise two texts in a 502: ``was not found`` means that the sandbox is gone or does
not run, ``port is not open`` that it runs and nothing listens there.
"""

from __future__ import annotations

import json

from pandastackd.errors import Conflict, NotFound, PlatformError
from pandastackd.gateway.address import Target
from pandastackd.gateway.upstream import BrokenAnswer, Head


def no_sandbox(target: Target, error: NotFound | Conflict) -> Head:
    """The sandbox is not there, or does not run. An unknown id and one that is gone look the same."""
    detail = "" if isinstance(error, NotFound) else f" running: {error.message}"
    return _refusal(502, f"the sandbox was not found{detail}", target)


def no_port(target: Target) -> Head:
    """The sandbox runs, and nothing takes connections there."""
    message = f"port is not open: nothing listens on port {target.port} of the sandbox; start the server there first"
    return _refusal(502, message, target)


def broken(target: Target, error: BrokenAnswer) -> Head:
    """Something answered, and not as HTTP demands."""
    return _refusal(502, f"the sandbox's server gave no proper answer: {error}", target)


def failed(target: Target | None, error: PlatformError) -> Head:
    """Anything else, in the platform's own words."""
    return _refusal(error.http_status, error.message, target)


def _refusal(status: int, message: str, target: Target | None) -> Head:
    content: dict[str, str | int] = {"code": status, "message": message}
    if target is not None:
        content |= {"sandboxId": target.sandbox_id, "port": target.port}
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    return Head(status, headers, body)
