"""E2B's control routes over a fake host: shapes, refusals by name, pages, tenants. Needs nothing."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from pandastackd.api.e2b.unsupported import ROUTES
from pandastackd.control import Control, Principal
from tests.unit.fakes import FakeAgent, TurnableClock

pytestmark = pytest.mark.anyio


@pytest.fixture
async def e2b(app: FastAPI, admin: Principal, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the admin key in E2B's spelling."""
    key = (tmp_path / "admin.key").read_text().strip().replace("pds_", "e2b_")
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test", headers={"X-API-Key": key}
    ) as client:
        yield client


async def make(e2b: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await e2b.post("/v2/sandboxes", json={"templateID": "base", **body})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


@pytest.mark.parametrize("path", ["/sandboxes", "/v2/sandboxes"])
async def test_create_look_and_end(
    e2b: httpx.AsyncClient, control: Control, agent: FakeAgent, path: str
) -> None:
    body = {
        "templateID": "base",
        "timeout": 60,
        "metadata": {"a": "b"},
        "envVars": {"X": "1"},
        "autoPause": False,
        "autoResume": {"enabled": False},
        "allow_internet_access": True,
        "secure": True,
    }
    answer = await e2b.post(path, json=body)
    assert answer.status_code == 201
    made = answer.json()
    assert made["envdVersion"] == "0.6.7"
    assert made["envdAccessToken"] == control.tokens.of(made["sandboxID"]) == agent.created[-1].access_token
    assert agent.created[-1].env == {"X": "1"}
    detail = (await e2b.get(f"/sandboxes/{made['sandboxID']}")).json()
    assert (detail["state"], detail["metadata"], detail["lifecycle"]["onTimeout"]) == (
        "running",
        {"a": "b"},
        "kill",
    )
    assert [each["sandboxID"] for each in (await e2b.get(path)).json()] == [made["sandboxID"]]
    assert (await e2b.delete(f"/sandboxes/{made['sandboxID']}")).status_code == 204
    assert (await e2b.delete(f"/sandboxes/{made['sandboxID']}")).status_code == 404


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"allow_internet_access": False}, "allow_internet_access"),
        ({"autoPauseMemory": False}, "autoPauseMemory"),
        ({"autoPause": True, "autoResume": {"enabled": False}}, "autoResume"),
        ({"network": {"denyOut": ["0.0.0.0/0"]}}, "network.denyOut"),
        ({"network": {"allowPublicTraffic": False}}, "network.allowPublicTraffic"),
        ({"mcp": {"x": {}}}, "mcp"),
        ({"iam": {"tokens": {}}}, "iam"),
        ({"volumeMounts": [{"name": "v", "path": "/v"}]}, "volumeMounts"),
        ({"somethingNew": 1}, "somethingNew"),
    ],
)
async def test_what_cannot_be_done_is_refused_by_name(
    e2b: httpx.AsyncClient, agent: FakeAgent, body: dict[str, Any], name: str
) -> None:
    answer = await e2b.post("/v2/sandboxes", json={"templateID": "base", **body})
    assert answer.status_code == 400
    assert answer.json()["code"] == 400
    assert name in answer.json()["message"]
    assert agent.created == []


async def test_errors_have_the_shape_these_clients_read(
    e2b: httpx.AsyncClient, app: FastAPI, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as anonymous:
        unknown = await anonymous.get("/v2/sandboxes", headers={"X-API-Key": "e2b_" + "0" * 32})
        assert (await anonymous.get("/health")).status_code == 200
    assert unknown.status_code == 401
    assert set(unknown.json()) == {"code", "message", "error_code"}
    assert (await e2b.get("/v2/sandboxes", params={"limit": "x"})).json()["code"] == 400
    assert (await e2b.post("/v2/sandboxes", json={"templateID": "nope"})).json()["code"] == 404

    async def broken(*_: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(control.sandboxes, "listed", broken)
    fault = await e2b.get("/v2/sandboxes")
    assert (fault.status_code, fault.json()["code"]) == (500, 500)
    assert "secret" not in fault.text


@pytest.mark.parametrize("route", [route for routes in ROUTES.values() for route in routes])
async def test_capabilities_of_later_are_refused_by_name(e2b: httpx.AsyncClient, route: str) -> None:
    method, _, path = route.partition(" ")
    answer = await e2b.request(method, re.sub(r"[{}]", "", path))
    assert answer.status_code == 400
    assert "not supported yet" in answer.json()["message"]


async def test_pages_and_filters(e2b: httpx.AsyncClient, clock: TurnableClock) -> None:
    made = []
    for number in range(5):
        clock.turn(1)
        made.append((await make(e2b, timeout=900, metadata={"n=": f"{number % 2} &ü"}))["sandboxID"])
    seen: list[str] = []
    params: dict[str, Any] = {"limit": 2}
    while True:
        page = await e2b.get("/v2/sandboxes", params=params)
        seen += [each["sandboxID"] for each in page.json()]
        if "x-next-token" not in page.headers:
            break
        params["nextToken"] = page.headers["x-next-token"]
    assert seen == made[::-1]
    assert (await e2b.get("/v2/sandboxes", params={"nextToken": "zzz"})).status_code == 400
    # Quoted once by the client's own code and once more as a query.
    odd = await e2b.get("/v2/sandboxes", params={"metadata": "n%253D=1%2520%2526%25C3%25BC"})
    assert [each["sandboxID"] for each in odd.json()] == [made[3], made[1]]
    assert (await e2b.get("/v2/sandboxes", params={"state": "paused"})).json() == []


async def test_anothers_sandbox_is_not_there(e2b: httpx.AsyncClient, stranger: str, app: FastAPI) -> None:
    made = await make(e2b)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test", headers={"X-API-Key": stranger}
    ) as other:
        assert (await other.get("/v2/sandboxes")).json() == []
        for method, path in (
            ("GET", ""),
            ("DELETE", ""),
            ("POST", "/connect"),
            ("POST", "/pause"),
            ("POST", "/fork"),
            ("POST", "/snapshots"),
            ("GET", "/metrics"),
            ("GET", "/logs"),
        ):
            assert (await other.request(method, f"/sandboxes/{made['sandboxID']}{path}")).status_code == 404


async def test_lifetime_pause_and_finding_again(
    e2b: httpx.AsyncClient, control: Control, admin: Principal
) -> None:
    made = await make(e2b, timeout=60, autoPause=True)
    path = f"/sandboxes/{made['sandboxID']}"
    assert (await e2b.get(path)).json()["lifecycle"]["onTimeout"] == "pause"
    assert (await e2b.post(f"{path}/timeout", json={"timeout": 100})).status_code == 204
    assert (await control.sandboxes.get(admin, made["sandboxID"])).ttl_seconds == 100
    again = await e2b.post(f"/v2{path}/connect", json={"timeout": 50})
    assert (again.status_code, again.json()["envdAccessToken"]) == (200, made["envdAccessToken"])
    assert (await control.sandboxes.get(admin, made["sandboxID"])).ttl_seconds == 100, "never shortened"
    assert (await e2b.post(f"{path}/resume", json={})).status_code == 409
    assert (await e2b.post(f"{path}/pause", json={"memory": False})).status_code == 400
    assert (await e2b.post(f"{path}/pause", json={})).status_code == 204
    assert (await e2b.post(f"{path}/pause", json={})).status_code == 409
    assert (await e2b.get(path)).json()["state"] == "paused"
    assert (await e2b.get(f"{path}/metrics")).json() == []
    assert (await e2b.post(f"{path}/connect", json={"timeout": 50})).status_code == 201
    (point,) = (await e2b.get(f"{path}/metrics")).json()
    assert point["memTotal"] == 512


async def test_templates_are_there_to_look_at(e2b: httpx.AsyncClient) -> None:
    names = [each["templateID"] for each in (await e2b.get("/templates")).json()]
    assert names == ["base", "code-interpreter"]
    assert (await e2b.get("/templates/aliases/ubuntu-24.04")).json() == {"templateID": "base", "public": True}
    assert (await e2b.get("/templates/aliases/nope")).status_code == 404
