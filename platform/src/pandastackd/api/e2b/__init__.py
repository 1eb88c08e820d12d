"""The control routes that E2B's clients call, as they call them: another face of the same control plane.

    POST /sandboxes, /v2/sandboxes                    lifecycle of sandboxes, at both of their addresses
    GET  /sandboxes/{id}/metrics, …/logs              what a sandbox uses and prints
    GET  /templates, /templates/aliases/{alias}       what sandboxes can be made from; read only
    everything else of theirs                         400 with its name

Errors are ``{"code", "message", "error_code"}``. What a request asks for and we cannot do is refused by name:
a field that is accepted and ignored is worse.
"""

from fastapi import APIRouter

from pandastackd.api.e2b import insight, lifecycle, sandboxes, snapshots, templates, unsupported
from pandastackd.api.e2b.route import E2bRoute

router = APIRouter(route_class=E2bRoute, tags=["e2b"])
# unsupported goes first: its fixed paths must win over {sandbox_id} of the others.
for part in (unsupported, sandboxes, lifecycle, snapshots, insight, templates):
    router.include_router(part.router)

__all__ = ["router"]
