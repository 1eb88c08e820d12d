"""A snapshot of another workspace is not there, by whatever route it is named: the answer is that to nobody's id."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI

pytestmark = pytest.mark.anyio

NOBODYS = "snap-u-00000000000000000000"
ROUTES = (
    ("GET", "/v1/snapshots/{id}", None),
    ("DELETE", "/v1/snapshots/{id}", None),
    ("POST", "/v1/sandboxes", {"template": "base", "from_snapshot": "{id}"}),
    ("POST", "/v1/sandboxes/{theirs}/rollback", {"snapshot_id": "{id}"}),
    ("POST", "/sandboxes", {"templateID": "{id}"}),
    ("POST", "/v2/sandboxes", {"templateID": "{id}"}),
    ("DELETE", "/templates/{id}", None),
)


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
async def test_anothers_snapshot_is_answered_as_one_that_never_was(
    app: FastAPI, http: httpx.AsyncClient, stranger: str, method: str, path: str, body: dict[str, str] | None
) -> None:
    mine = (await http.post("/v1/sandboxes", json={"template": "base"})).json()["id"]
    snapshot = (await http.post(f"/v1/sandboxes/{mine}/snapshots", json={"name": "mine"})).json()["id"]
    headers = {"Authorization": f"Bearer {stranger}", "X-API-Key": stranger}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test", headers=headers
    ) as other:
        theirs = (await other.post("/v1/sandboxes", json={"template": "base"})).json()["id"]

        async def ask(snapshot_id: str) -> tuple[int, dict[str, object]]:
            filled = {key: value.replace("{id}", snapshot_id) for key, value in (body or {}).items()}
            where = path.replace("{id}", snapshot_id).replace("{theirs}", theirs)
            answer = await other.request(method, where, json=filled if body else None)
            said = {
                key: value.replace(snapshot_id, "…") if isinstance(value, str) else value
                for key, value in answer.json().items()
                if key != "request_id"
            }
            return answer.status_code, said

        assert await ask(snapshot) == await ask(NOBODYS)
        assert (await ask(snapshot))[0] == 404
        assert (await other.get("/v1/snapshots", params={"sandbox_id": mine})).json() == []
        assert (await other.get("/snapshots", params={"sandboxID": mine})).json() == []
        assert [each["id"] for each in (await other.get("/v1/sandboxes")).json()] == [theirs]
    assert (await http.get(f"/v1/snapshots/{snapshot}")).status_code == 200
