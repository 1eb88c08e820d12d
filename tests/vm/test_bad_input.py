"""Requests that no well-behaved client sends, against the real server: each a clear refusal in the one error shape.

Needs root, QEMU and the templates.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from pandastack import Sandbox
from pandastackd.child_server import ChildServer

NOBODY = "00000000-0000-0000-0000-000000000000"


@pytest.fixture(scope="module")
def http(server: ChildServer) -> Iterator[httpx.Client]:
    """Plain HTTP with the admin key, as ``curl`` would."""
    headers = {"Authorization": f"Bearer {server.admin_key}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=60, trust_env=False) as http:
        yield http


def refused(response: httpx.Response, status: int, *words: str) -> dict[str, Any]:
    """The error that ``response`` must be, once its shape and words are checked."""
    assert response.status_code == status, response.text
    body: dict[str, Any] = response.json()
    assert isinstance(body["error"], str)
    assert body["code"]
    assert body["code"] != "internal"
    assert body["request_id"]
    assert body["request_id"] == response.headers["x-request-id"]
    for word in words:
        assert word in body["error"], body["error"]
    return body


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"template": "no-such-template"}, 404, ["no-such-template"]),
        ({"template": "../../etc"}, 404, []),
        ({"template": ""}, 400, ["template"]),
        ({"template": 7}, 400, ["template"]),
        ({"template": "base", "ttl_seconds": -1}, 400, ["ttl_seconds"]),
        ({"template": "base", "ttl_seconds": 0}, 400, ["ttl_seconds"]),
        ({"template": "base", "ttl_seconds": 10**12}, 400, ["ttl_seconds"]),
        ({"template": "base", "ttl_seconds": "60"}, 400, ["ttl_seconds"]),
        ({"template": "base", "ttl_seconds": 1.5}, 400, ["ttl_seconds"]),
        ({"template": "base", "memory": 1}, 400, ["memory"]),
        ({"template": "base", "metadata": {"a": 1}}, 400, ["metadata"]),
        ({"template": "base", "metadata": "x"}, 400, ["metadata"]),
        ({"template": "base", "env": {"A=B": "x"}}, 400, ["env"]),
        ({"template": "base", "env": {"A": "x\0y"}}, 400, ["env"]),
        ({"template": "base", "on_timeout": "explode"}, 400, ["on_timeout"]),
        ({"template": "base", "from_snapshot": "nope"}, 404, ["nope"]),
    ],
    ids=str,
)
def test_a_create_that_cannot_be_honoured(
    http: httpx.Client, body: Any, status: int, words: list[str]
) -> None:
    before = {each["id"] for each in http.get("/v1/sandboxes").json()}
    refused(http.post("/v1/sandboxes", json=body), status, *words)
    assert {each["id"] for each in http.get("/v1/sandboxes").json()} == before


@pytest.mark.parametrize(
    "content",
    [b"{", b"nonsense", b"[]", b'"text"', b"7", b"null", b"\xff\xfe", b"{" * 100_000],
    ids=lambda b: repr(b[:8]),
)
@pytest.mark.parametrize("path", ["", "/{id}/exec", "/{id}/exec/stream"])
def test_a_body_that_is_no_json_object(
    http: httpx.Client, shared_sandbox: Sandbox, path: str, content: bytes
) -> None:
    url = "/v1/sandboxes" + path.format(id=shared_sandbox.id)
    refused(http.post(url, content=content, headers={"content-type": "application/json"}), 400)


def test_a_body_without_end_is_cut_off(http: httpx.Client) -> None:
    body = b'{"template": "' + b"x" * (32 << 20) + b'"}'
    refused(http.post("/v1/sandboxes", content=body), 413)


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer pds_wrong", "Basic abc", "Bearer " + "x" * 4000, "Bearer \xfc"],
)
def test_without_a_good_key_nothing_is_told(
    server: ChildServer, shared_sandbox: Sandbox, header: str | None
) -> None:
    headers = [] if header is None else [(b"Authorization", header.encode("latin-1"))]
    with httpx.Client(base_url=server.url, headers=headers, trust_env=False) as stranger:
        for path in (
            "/v1/me",
            "/v1/sandboxes",
            f"/v1/sandboxes/{shared_sandbox.id}",
            f"/v1/sandboxes/{NOBODY}",
        ):
            refused(stranger.get(path), 401)
        refused(stranger.post("/v1/sandboxes", content=b"{"), 401)
        refused(stranger.post(f"/v1/sandboxes/{shared_sandbox.id}/exec", json={"cmd": "id"}), 401)


@pytest.mark.parametrize(
    "sandbox_id", [NOBODY, "x", "..%2f..%2fetc", "%00", "'; DROP TABLE sandboxes; --", "é"]
)
def test_a_sandbox_that_is_not_there(http: httpx.Client, sandbox_id: str) -> None:
    route = f"/v1/sandboxes/{sandbox_id}"
    refused(http.get(route), 404)
    refused(http.delete(route), 404)
    refused(http.post(f"{route}/exec", json={"cmd": "id"}), 404)
    refused(http.post(f"{route}/pause"), 404)
    refused(http.get(f"{route}/fs", params={"path": "/x"}), 404)
    refused(http.get(f"{route}/logs"), 404)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, ["cmd"]),
        ({"cmd": 1}, ["cmd"]),
        ({"cmd": None}, ["cmd"]),
        ({"cmd": ["a"]}, ["cmd"]),
        ({"cmd": "id", "timeout": 3}, ["timeout"]),
        ({"cmd": "id", "timeout_seconds": "3"}, ["timeout_seconds"]),
        ({"cmd": "x" * 200_000}, ["cmd"]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_command_that_cannot_be_honoured(
    http: httpx.Client, shared_sandbox: Sandbox, body: Any, words: list[str]
) -> None:
    for verb in ("exec", "exec/stream"):
        refused(http.post(f"/v1/sandboxes/{shared_sandbox.id}/{verb}", json=body), 400, *words)


def test_routes_and_methods_that_are_not_there(http: httpx.Client, shared_sandbox: Sandbox) -> None:
    refused(http.get("/v1/nothing/here"), 404)
    refused(http.put("/v1/sandboxes"), 405)
    refused(http.post(f"/v1/sandboxes/{shared_sandbox.id}/fs/stat"), 405)
    refused(http.get(f"/v1/sandboxes/{shared_sandbox.id}/fs"), 400, "path")


def test_a_life_cycle_that_cannot_be_honoured(http: httpx.Client, shared_sandbox: Sandbox) -> None:
    route = f"/v1/sandboxes/{shared_sandbox.id}/lifecycle"
    refused(http.patch(route, json={"ttl_seconds": -5}), 400, "ttl_seconds")
    refused(http.patch(route, json={"ttl": 5}), 400, "ttl")
    refused(http.patch(route, json={"persistent": "yes"}), 400, "persistent")
