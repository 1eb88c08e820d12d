"""What sandboxes can be made from, to look at."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from pandastackd.api.dependencies import ControlDep
from pandastackd.api.e2b.route import E2bCaller, E2bRoute
from pandastackd.api.e2b.sandboxes import origin
from pandastackd.domain import TemplateReport

router = APIRouter(route_class=E2bRoute)


@router.get("/templates")
@router.get("/v2/templates")
@router.get("/default-templates")
async def list_templates(control: ControlDep, _caller: E2bCaller) -> Response:
    """Every template, by name."""
    return JSONResponse([_template(template) for template in await control.templates.listed()])


@router.get("/templates/aliases/{alias}")
async def find_alias(alias: str, control: ControlDep, caller: E2bCaller) -> Response:
    """The template with this name or alias, or the caller's own snapshot."""
    name, snapshot = await origin(control, caller, alias)
    return JSONResponse({"templateID": snapshot or name, "public": snapshot is None})


@router.get("/templates/{template_id}")
async def get_template(template_id: str, control: ControlDep, _caller: E2bCaller) -> Response:
    """One template, with the build that is in use."""
    template = await control.templates.find(template_id)
    build = {
        "buildID": _build_id(template),
        "status": "ready",
        "createdAt": template.built_at,
        "updatedAt": template.built_at,
        "finishedAt": template.built_at,
        "cpuCount": template.vcpus,
        "memoryMB": template.memory_mib,
        "diskSizeMB": template.disk_mib,
        "envdVersion": template.envd_version,
    }
    return JSONResponse({**_template(template), "builds": [build]})


def _template(template: TemplateReport) -> dict[str, Any]:
    return {
        "templateID": template.name,
        "buildID": _build_id(template),
        "cpuCount": template.vcpus,
        "memoryMB": template.memory_mib,
        "diskSizeMB": template.disk_mib,
        "public": True,
        "aliases": [template.name, *template.aliases],
        "names": [template.name, *template.aliases],
        "createdAt": template.built_at,
        "updatedAt": template.built_at,
        "createdBy": None,
        "lastSpawnedAt": None,
        "spawnCount": 0,
        "buildCount": 1,
        "envdVersion": template.envd_version,
        "buildStatus": "ready",
        "isDefault": True,
        "description": template.description,
    }


def _build_id(template: TemplateReport) -> str:
    """The snapshot's id in the shape that these clients parse."""
    return str(uuid.UUID(bytes=hashlib.sha256(template.snapshot_id.encode()).digest()[:16]))
