"""Who may call, and the life of a key. Needs nothing."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from tests.unit.fakes import TurnableClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def key(http: httpx.AsyncClient, tmp_path: Path) -> str:
    return (tmp_path / "admin.key").read_text().strip()


@pytest.fixture
def anonymous(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def test_every_spelling_of_a_key(anonymous: httpx.AsyncClient, key: str) -> None:
    for headers in (
        {"Authorization": f"Bearer {key}"},
        {"authorization": f"bEaReR {key}"},
        {"X-API-Key": key},
        {"X-API-Key": key.replace("pds_", "e2b_")},
    ):
        response = await anonymous.get("/v1/me", headers=headers)
        assert response.status_code == 200
        assert response.json()["current_org"] == "default"
        assert response.json()["auth_method"] == "api_key"


async def test_no_or_wrong_key_is_401(anonymous: httpx.AsyncClient, key: str) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer "},
        {"Authorization": f"Basic {key}"},
        {"Authorization": "Bearer pds_" + "0" * 32},
        {"X-API-Key": key[:-1]},
        {"X-API-Key": key.upper()},
    ):
        for method, path in (
            ("GET", "/v1/me"),
            ("POST", "/v1/sandboxes"),
            ("GET", "/v1/sandboxes/x/fs?path=a"),
            ("GET", "/v1/apps"),
        ):
            response = await anonymous.request(method, path, headers=headers)
            assert response.status_code == 401, (headers, path)
            assert response.headers["www-authenticate"] == "Bearer"
            assert isinstance(response.json()["error"], str)


async def test_a_key_in_the_query_is_not_taken(anonymous: httpx.AsyncClient, key: str) -> None:
    assert (await anonymous.get("/v1/me", params={"access_token": key})).status_code == 401


async def test_tokens_are_made_listed_used_and_revoked(
    http: httpx.AsyncClient, anonymous: httpx.AsyncClient
) -> None:
    made = await http.post("/v1/me/tokens", json={"label": "ci"})
    assert made.status_code == 201
    token, prefix = made.json()["token"], made.json()["prefix"]
    assert prefix == token[:12]
    assert made.headers["cache-control"] == "no-store"
    listed = (await http.get("/v1/me/tokens")).json()["items"]
    assert {entry["label"] for entry in listed} == {"admin", "ci"}
    assert token not in str(listed)

    headers = {"Authorization": f"Bearer {token}"}
    assert (await anonymous.get("/v1/me", headers=headers)).status_code == 200
    assert (await http.delete(f"/v1/me/tokens/{prefix}")).status_code == 204
    assert (await anonymous.get("/v1/me", headers=headers)).status_code == 401, "at once, cache or not"
    assert (await http.delete(f"/v1/me/tokens/{prefix}")).status_code == 404


async def test_a_token_expires(
    http: httpx.AsyncClient, anonymous: httpx.AsyncClient, clock: TurnableClock
) -> None:
    made = (await http.post("/v1/me/tokens", json={"name": "short", "expires_in_days": 1})).json()
    headers = {"Authorization": f"Bearer {made['token']}"}
    assert made["label"] == "short"
    assert (await anonymous.get("/v1/me", headers=headers)).status_code == 200
    clock.turn(24 * 3600)
    expired = await anonymous.get("/v1/me", headers=headers)
    assert (expired.status_code, expired.json()["code"]) == (401, "key_expired")


@pytest.mark.parametrize(
    "body", [{"expires_in_days": 0}, {"expires_in_days": 99999}, {"label": "x" * 300}, {"lable": "x"}]
)
async def test_bad_tokens_are_refused(http: httpx.AsyncClient, body: dict[str, object]) -> None:
    assert (await http.post("/v1/me/tokens", json=body)).status_code == 400


async def test_tokens_of_another_workspace_cannot_be_seen_or_revoked(
    http: httpx.AsyncClient, anonymous: httpx.AsyncClient, stranger: str
) -> None:
    prefix = (await http.post("/v1/me/tokens", json={"label": "mine"})).json()["prefix"]
    headers = {"X-API-Key": stranger}
    listed = (await anonymous.get("/v1/me/tokens", headers=headers)).json()["items"]
    assert [entry["label"] for entry in listed] == ["x"]
    assert (await anonymous.delete(f"/v1/me/tokens/{prefix}", headers=headers)).status_code == 404
