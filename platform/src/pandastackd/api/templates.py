"""Templates that sandboxes can be made from. The list is a bare array: published clients hand it on as it
is.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from pandastackd.api.dependencies import Caller, ControlDep
from pandastackd.api.wire import TemplateInfo
from pandastackd.domain import TemplateReport

router = APIRouter(tags=["templates"])


@router.get("/templates", response_model=list[TemplateInfo])
async def list_templates(control: ControlDep, _caller: Caller) -> Response:
    """Every template, by name."""
    return JSONResponse([_info(template) for template in await control.templates.listed()])


@router.get("/templates/{name}", response_model=TemplateInfo)
async def get_template(name: str, control: ControlDep, _caller: Caller) -> Response:
    """One template, by name or alias."""
    return JSONResponse(_info(await control.templates.find(name)))


def _info(template: TemplateReport) -> dict[str, Any]:
    return {
        "name": template.name,
        "rootfs_path": template.rootfs_path,
        "size_bytes": template.size_bytes,
        "cpu": template.vcpus,
        "memory_mb": template.memory_mib,
        "is_global": True,
        "workspace": "",
        "label": template.label,
        "description": template.description,
        "category": template.category,
        "base": template.base,
        "tools": list(template.tools),
        "meta": {
            "built_at": template.built_at,
            "aliases": list(template.aliases),
            "disk_mb": template.disk_mib,
            "snapshot_id": template.snapshot_id,
        },
    }
