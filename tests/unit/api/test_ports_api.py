"""Ports: what listens, labels, and ways through the API's own address. A server on loopback stands for the guest's."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from tests.unit.fakes import FakeAgent, TurnableClock

pytestmark = pytest.mark.anyio


class Page(BaseHTTPRequestHandler):
    """Says what it was asked, and answers as a careless program does."""

    def _answer(self) -> None:
        body = f"{self.command} {self.path}\n{self.headers}".encode()
        self.send_response(302 if self.path.startswith("/moved") else 200)
        self.send_header("Set-Cookie", "a=b")
        self.send_header("Content-Security-Policy", "default-src *")
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer  # noqa: N815 - names of the standard library

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def page() -> Iterator[int]:
    """The port of a server on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
async def sandbox_id(http: httpx.AsyncClient) -> str:
    made: str = (await http.post("/v1/sandboxes", json={"template": "base"})).json()["id"]
    return made


async def test_what_listens_and_what_has_a_label(http: httpx.AsyncClient, sandbox_id: str, page: int) -> None:
    route = f"/v1/sandboxes/{sandbox_id}/ports"
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        found = {each["port"]: each for each in (await http.get(route)).json()}
        assert {page, listener.getsockname()[1]} <= found.keys()
    assert found[page] == {
        "port": page,
        "label": "",
        "listening": True,
        "source": "detected",
        "proxy_url": f"http://test/v1/sandboxes/{sandbox_id}/proxy/{page}/",
    }
    made = await http.post(route, json={"port": page, "label": "web"})
    assert (made.status_code, made.json()["label"], made.json()["source"]) == (201, "web", "user")
    await http.post(route, json={"port": 9, "label": "later"})
    await http.post(f"/v1/sandboxes/{sandbox_id}/pause")
    asleep = (await http.get(route)).json()
    assert [(each["port"], each["label"], each["listening"]) for each in asleep] == [
        (9, "later", False),
        (page, "web", False),
    ]
    assert (await http.delete(f"{route}/9")).status_code == 204
    assert (await http.delete(f"{route}/9")).status_code == 404
    assert [each["port"] for each in (await http.get(route)).json()] == [page]


@pytest.mark.parametrize(
    "body", [{}, {"port": 0}, {"port": 65536}, {"port": 1, "label": "x" * 65}, {"port": "1"}]
)
async def test_bad_labels_are_refused(
    http: httpx.AsyncClient, sandbox_id: str, body: dict[str, object]
) -> None:
    assert (await http.post(f"/v1/sandboxes/{sandbox_id}/ports", json=body)).status_code == 400


async def test_a_page_through_the_api_is_kept_apart_from_it(
    http: httpx.AsyncClient, sandbox_id: str, page: int
) -> None:
    lead = f"/v1/sandboxes/{sandbox_id}/proxy/{page}"
    secret = {"Cookie": "session=1", "X-Extra": "kept"}
    seen = await http.post(f"{lead}/a%20b/ü?x=1&access_token=secret", headers=secret, content=b"body")
    assert seen.text.startswith("POST /a%20b/%C3%BC?x=1\n")
    assert "x-extra: kept" in seen.text.lower()
    for header in ("authorization", "cookie", "pds_", "secret"):
        assert header not in seen.text.lower()
    assert "set-cookie" not in seen.headers
    assert seen.headers["content-security-policy"].startswith("sandbox ")
    moved = await http.get(f"{lead}/moved")
    assert (moved.status_code, moved.headers["location"]) == (302, f"{lead}/elsewhere")
    assert (await http.get(f"/v1/sandboxes/{sandbox_id}/proxy/0/")).status_code == 400
    assert (await http.get(f"/v1/sandboxes/{sandbox_id}/proxy/1/")).status_code == 502


async def test_another_workspace_sees_no_port(
    http: httpx.AsyncClient, sandbox_id: str, page: int, stranger: str
) -> None:
    http.headers["authorization"] = f"Bearer {stranger}"
    route = f"/v1/sandboxes/{sandbox_id}"
    for method, path in (("GET", "ports"), ("GET", f"proxy/{page}/"), ("DELETE", f"ports/{page}")):
        assert (await http.request(method, f"{route}/{path}")).status_code == 404
    assert (await http.post(f"{route}/ports", json={"port": page})).status_code == 404
    assert (await http.post(f"{route}/preview-token", json={"port": page})).status_code == 404


async def test_a_preview_token_opens_one_port_for_a_time(
    http: httpx.AsyncClient, sandbox_id: str, page: int, clock: TurnableClock, agent: FakeAgent
) -> None:
    body = {"port": page, "ttl_seconds": 60, "paths": ["/open", "/also/"]}
    made = (await http.post(f"/v1/sandboxes/{sandbox_id}/preview-token", json=body)).json()
    assert made["expires_at"] == "2030-01-02T03:05:05.000Z"
    del http.headers["authorization"]
    assert (await http.get(f"{made['url']}open/x?y=1")).text.startswith("GET /open/x?y=1\n")
    assert (await http.get(f"{made['url']}also/x")).status_code == 200
    for path in ("closed", "opener", "", "open/../closed", "open/%2e%2e/closed"):
        assert (await http.get(f"http://test/v1/p/{made['token']}/{path}")).status_code == 403
    body, _, signature = made["token"].partition(".")
    for forged in (f"{body}x.{signature}", f"{body}.{signature[:-1]}0x", body, f"{body}.", "ü.ü"):
        answer = await http.get(f"/v1/p/{forged}/open")
        assert (answer.status_code, answer.json()["code"]) == (401, "preview_token_invalid")
    clock.turn(60)
    answer = await http.get(f"{made['url']}open")
    assert (answer.status_code, answer.json()["code"]) == (401, "preview_token_expired")


@pytest.mark.parametrize(
    "extra",
    [{"ttl_seconds": 0}, {"ttl_seconds": 10**6}, {"paths": ["x"]}, {"paths": ["/x"] * 17}, {"port": -1}],
)
async def test_bad_previews_are_refused(
    http: httpx.AsyncClient, sandbox_id: str, extra: dict[str, object]
) -> None:
    for route in ("preview", "preview-token"):
        answer = await http.post(f"/v1/sandboxes/{sandbox_id}/{route}", json={"port": 80, **extra})
        assert answer.status_code == 400
