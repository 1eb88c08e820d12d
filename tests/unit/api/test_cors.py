"""Which web pages may call the API from a browser. Needs nothing."""

from __future__ import annotations

import httpx
import pytest
from pydantic import ValidationError

from pandastackd.api import create_app
from pandastackd.config import Settings
from pandastackd.control import Control

pytestmark = pytest.mark.anyio

PAGE = "https://app.example.org"
PREFLIGHT = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
}


def client(control: Control, settings: Settings, *origins: str) -> httpx.AsyncClient:
    app = create_app(control, settings.model_copy(update={"cors_origins": list(origins)}))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def test_a_page_that_is_named_may_call(control: Control, settings: Settings) -> None:
    async with client(control, settings, PAGE, "http://localhost:3000") as http:
        asked = await http.options("/v1/sandboxes", headers=PREFLIGHT)
        assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, PAGE)
        assert "idempotency-key" in asked.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in asked.headers
        # The page must be able to read why it was refused.
        refused = await http.get("/v1/sandboxes", headers={"Origin": PAGE})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, PAGE)
        assert "origin" in refused.headers["vary"].lower()
        assert "x-request-id" in refused.headers["access-control-expose-headers"].lower()


@pytest.mark.parametrize("origin", ["https://evil.example.org", "https://app.example.org.evil.org", "null"])
async def test_other_pages_may_not(control: Control, settings: Settings, origin: str) -> None:
    async with client(control, settings, PAGE) as http:
        asked = await http.options("/v1/sandboxes", headers=PREFLIGHT | {"Origin": origin})
        assert asked.status_code == 400
        for answer in (asked, await http.get("/v1/sandboxes", headers={"Origin": origin})):
            assert "access-control-allow-origin" not in answer.headers


async def test_by_default_no_page_may(control: Control, settings: Settings) -> None:
    async with client(control, settings) as http:
        answer = await http.options("/v1/sandboxes", headers=PREFLIGHT)
        assert answer.status_code == 405
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_origins_are_named_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PANDASTACK_CORS_ORIGINS", f"{PAGE}, http://localhost:3000")
    assert Settings().cors_origins == [PAGE, "http://localhost:3000"]
    for wrong in ("*", "https://*.example.org", "app.example.org", "https://app.example.org/", "null"):
        monkeypatch.setenv("PANDASTACK_CORS_ORIGINS", wrong)
        with pytest.raises(ValidationError):
            Settings()
