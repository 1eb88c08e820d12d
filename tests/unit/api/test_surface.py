"""What surrounds the resources: unknown and unbuilt routes, errors, health, metrics, documentation. Needs nothing."""

from __future__ import annotations

import httpx
import pytest

from pandastackd.api import create_app, not_built
from pandastackd.config import Settings
from pandastackd.control import Control

pytestmark = pytest.mark.anyio


async def test_unknown_routes_and_methods_have_our_shape(http: httpx.AsyncClient) -> None:
    missing = await http.get("/v1/nope")
    assert (missing.status_code, missing.json()["code"]) == (404, "no_such_route")
    wrong = await http.put("/v1/sandboxes")
    assert (wrong.status_code, wrong.json()["code"]) == (405, "method_not_allowed")
    assert "POST" in wrong.headers["allow"]
    for response in (missing, wrong):
        assert set(response.json()) == {"error", "code", "request_id"}


@pytest.mark.parametrize(
    ("capability", "route"),
    [(capability, route) for capability, routes in not_built.ROUTES.items() for route in routes],
)
async def test_published_routes_that_are_not_built(
    http: httpx.AsyncClient, capability: str, route: str
) -> None:
    method, _, path = route.partition(" ")
    response = await http.request(method, f"/v1{path}".replace("{", "").replace("}", ""))
    assert response.status_code == 501
    assert response.json()["code"] == "not_built"
    assert response.json()["error"].startswith(f"{capability}: ")


async def test_a_request_id_of_the_caller_is_kept_if_it_is_harmless(http: httpx.AsyncClient) -> None:
    kept = await http.get("/healthz", headers={"X-Request-Id": "abc-123"})
    assert kept.headers["x-request-id"] == "abc-123"
    replaced = await http.get("/healthz", headers={"X-Request-Id": "a b\tc"})
    assert replaced.headers["x-request-id"].startswith("req_")


async def test_a_fault_of_ours_tells_nothing_but_its_id(
    http: httpx.AsyncClient, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(control.sandboxes, "listed", broken)
    response = await http.get("/v1/sandboxes")
    assert (response.status_code, response.json()["code"]) == (500, "internal")
    assert response.json()["request_id"] == response.headers["x-request-id"]
    assert "secret" not in response.text


async def test_operators_routes_need_no_key(
    control: Control, settings: Settings, http: httpx.AsyncClient
) -> None:
    counting = httpx.ASGITransport(create_app(control, settings))  # the other tests share their counters
    async with httpx.AsyncClient(transport=counting, base_url="http://test") as anonymous:
        as_admin = {"Authorization": http.headers["Authorization"]}
        answer = await anonymous.post("/v1/sandboxes", json={"template": "base"}, headers=as_admin)
        made = answer.json()["id"]
        await anonymous.get(f"/v1/sandboxes/{made}", headers=as_admin)
        assert (await anonymous.get("/healthz")).json() == {"status": "ok"}
        assert set((await anonymous.get("/version")).json()) == {"version", "api"}
        text = (await anonymous.get("/metrics")).text
    assert 'pandastack_sandboxes{state="running"} 1.0' in text
    assert 'pandastack_create_phase_seconds_count{phase="total"} 1.0' in text
    assert 'route="/v1/sandboxes/{sandbox_id}"' in text
    assert made not in text


async def test_openapi_describes_what_is_built_and_nothing_else(http: httpx.AsyncClient) -> None:
    description = (await http.get("/openapi.json")).json()
    assert "/v1/sandboxes/{sandbox_id}/exec" in description["paths"]
    assert "/v1/apps" not in description["paths"]
    assert "422" not in str(description)
    body = description["paths"]["/v1/sandboxes"]["post"]["requestBody"]["content"]["application/json"][
        "schema"
    ]
    assert body["additionalProperties"] is False
    assert "$ref" not in str(body)


async def test_docs_need_nothing_from_elsewhere(http: httpx.AsyncClient) -> None:
    page = (await http.get("/docs")).text
    assert "/v1/sandboxes/{sandbox_id}/exec/stream" in page
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page
