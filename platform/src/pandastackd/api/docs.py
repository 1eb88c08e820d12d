"""The API's description: ``/openapi.json`` for programs, ``/docs`` for people.

The page is made from the description, by us, and needs nothing from elsewhere: it works on a machine
without internet.
"""

from __future__ import annotations

from html import escape
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, JSONResponse, Response

router = APIRouter(include_in_schema=False)

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h2 { margin-top: 2.5rem; text-transform: capitalize }
details { border: 1px solid #8886; border-radius: .4rem; margin: .4rem 0; padding: .4rem .8rem }
summary { cursor: pointer } summary b { display: inline-block; width: 4.5rem }
code, pre { font: .85rem/1.45 ui-monospace, monospace } pre { overflow: auto; padding: .6rem; background:
#8882 } table { border-collapse: collapse } td, th { text-align: left; padding: .1rem 1rem .1rem 0;
vertical-align: top }
"""

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
}


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """The description of the API."""
    return JSONResponse(describe(request))


@router.get("/docs")
async def page(request: Request) -> Response:
    """The same for people."""
    return HTMLResponse(render(describe(request)), headers=_HEADERS)


def describe(request: Request) -> dict[str, Any]:
    """The OpenAPI description: FastAPI's, with our keys, without the 422 answer that we never give."""
    description: dict[str, Any] = request.app.openapi()
    components = description.setdefault("components", {})
    if "securitySchemes" in components:
        return description
    components["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "An API key: pds_ and 32 hex digits"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    for path, operations in description["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            if path.startswith("/v1/"):
                operation["security"] = [{"key": []}, {"header": []}]
    for unused in ("HTTPValidationError", "ValidationError"):
        components.get("schemas", {}).pop(unused, None)
    return description


def render(description: dict[str, Any]) -> str:
    """The page."""
    groups: dict[str, list[str]] = {}
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            tag = (operation.get("tags") or ["other"])[0]
            groups.setdefault(tag, []).append(_operation(method, path, operation))
    schemas = description.get("components", {}).get("schemas", {})
    sections = [f"<h2>{escape(tag)}</h2>{''.join(items)}" for tag, items in groups.items()]
    sections.append("<h2>Shapes</h2>" + "".join(_shape(name, schema) for name, schema in schemas.items()))
    info = description["info"]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{escape(info['title'])} API</title><style>{_STYLE}</style>"
        f"<h1>{escape(info['title'])} API <small>{escape(info['version'])}</small></h1>"
        f"<p>{escape(info.get('summary', ''))} Send your key as <code>Authorization: Bearer pds_…</code>."
        ' Machine-readable: <a href="/openapi.json">openapi.json</a>.</p>' + "".join(sections)
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    text = escape(operation.get("description") or operation.get("summary") or "")
    rows = "".join(
        f"<tr><td><code>{escape(parameter['name'])}</code><td>{escape(parameter['in'])}"
        f"<td>{escape(_kind(parameter.get('schema', {})))}<td>{escape(parameter.get('description', ''))}"
        for parameter in operation.get("parameters", [])
    )
    body = operation.get("requestBody", {}).get("content", {})
    sent = "".join(
        f"<p>Body: <code>{escape(kind)}</code></p>{_fields(content.get('schema', {}))}"
        for kind, content in body.items()
    )
    answers = "".join(
        f"<tr><td><code>{escape(status)}</code><td>{escape(answer.get('description', ''))}"
        f"<td>{escape(', '.join(_kind(c.get('schema', {})) for c in answer.get('content', {}).values()))}"
        for status, answer in operation["responses"].items()
    )
    return (
        f"<details><summary><b>{method.upper()}</b> <code>{escape(path)}</code></summary><p>{text}</p>"
        f"<table>{rows}</table>{sent}<p>Answers</p><table>{answers}</table></details>"
    )


def _shape(name: str, schema: dict[str, Any]) -> str:
    text = escape(schema.get("description", ""))
    return f"<details><summary><code>{escape(name)}</code></summary><p>{text}</p>{_fields(schema)}</details>"


def _fields(schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code><td>{escape(_kind(field))}"
        f"<td>{'required' if name in required else ''}"
        for name, field in schema.get("properties", {}).items()
    )
    return f"<table>{rows}</table>"


def _kind(schema: dict[str, Any]) -> str:
    """A few words for a schema."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(_kind(option) for option in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    return str(schema.get("type", "any"))
