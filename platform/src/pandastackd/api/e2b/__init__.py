"""The control routes that E2B's clients call, as they call them: another face of the same control plane.

    POST /sandboxes, /v2/sandboxes                    lifecycle of sandboxes, at both of their addresses
    GET  /sandboxes/{id}/metrics, …/logs              what a sandbox uses and prints
    GET  /templates, /templates/aliases/{alias}       what sandboxes can be made from; read only
    everything else of theirs                         400 with its name

Errors are ``{"code", "message", "error_code"}``. What a request asks for and we cannot do is refused by name:
a field that is accepted and ignored is worse.
"""

from fastapi import APIRouter, Depends

from pandastackd.api.e2b import health, lifecycle, logs, metrics, sandboxes, snapshots, templates, unsupported
from pandastackd.api.e2b.route import E2bRoute, caller_of

router = APIRouter(route_class=E2bRoute, tags=["e2b"])
router.include_router(health.router)
# The first two go first: their fixed paths must win over {sandbox_id} of the others.
for part in (unsupported, metrics, sandboxes, lifecycle, snapshots, logs, templates):
    # Who calls is asked before anything else, so that a stranger has no body read and learns no rules.
    router.include_router(part.router, dependencies=[Depends(caller_of)])

__all__ = ["router"]
