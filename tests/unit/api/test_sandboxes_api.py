"""The sandbox routes over a fake host: shapes, validation, tenancy, errors. Needs nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import httpx
import pytest
from fastapi import FastAPI

from pandastackd.control import Control
from pandastackd.errors import VmmFailed
from tests.unit.fakes import FakeAgent, TurnableClock, eventually

pytestmark = pytest.mark.anyio

CONTRACT_FIELDS = [
    *("id", "template", "cpu", "memory_mb", "status", "guest_ip", "host_tap", "mac", "vsock_cid", "metadata"),
    *("from_snapshot", "boot_ms", "boot_mode", "created_at", "persistent"),
]


async def _made(http: httpx.AsyncClient, **body: object) -> str:
    response = await http.post("/v1/sandboxes", json={"template": "base", **body})
    assert response.status_code == 201, response.text
    sandbox_id: str = response.json()["id"]
    return sandbox_id


async def test_create_get_list_delete(http: httpx.AsyncClient, agent: FakeAgent) -> None:
    response = await http.post("/v1/sandboxes", json={"template": "base", "metadata": {"a": "ü"}})
    assert response.status_code == 201
    made = response.json()
    assert list(made)[: len(CONTRACT_FIELDS)] == CONTRACT_FIELDS
    assert made["status"] == "running"
    assert made["metadata"] == {"a": "ü"}
    assert made["created_at"] == "2030-01-02T03:04:05.000Z"
    assert made["expires_at"] == "2030-01-02T04:04:05.000Z"
    assert set(made["phases_ms"]) == {"slot", "disk", "vmm", "load", "guest", "total"}
    assert made["boot_ms"] == made["phases_ms"]["total"] == 108, "the host's own total"
    assert made["failure"] is None
    assert response.headers["x-request-id"].startswith("req_")

    url = f"/v1/sandboxes/{made['id']}"
    assert (await http.get(url)).json() == made
    assert (await http.get("/v1/sandboxes")).json() == [made]
    gone = await http.delete(url)
    assert (gone.status_code, gone.content) == (204, b"")
    assert (await http.get(url)).status_code == 404
    assert (await http.delete(url)).status_code == 404
    assert (await http.get("/v1/sandboxes")).json() == []
    assert not agent.sandboxes
    events = (await http.get(f"{url}/events")).json()["events"]
    assert [event["type"] for event in events] == ["sandbox.running", "sandbox.deleted"]


@pytest.mark.parametrize("content_type", ["text/plain;charset=UTF-8", "application/json", None])
async def test_an_empty_body_is_an_empty_object(http: httpx.AsyncClient, content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}
    response = await http.post("/v1/sandboxes", content=b"", headers=headers)
    assert response.status_code == 201
    assert response.json()["template"] == "code-interpreter"
    url = f"/v1/sandboxes/{response.json()['id']}"
    assert (await http.post(f"{url}/pause", content=b"", headers=headers)).status_code == 204
    assert (await http.post(f"{url}/resume", content=b"", headers=headers)).status_code == 204


async def test_an_alias_is_the_template(http: httpx.AsyncClient) -> None:
    response = await http.post("/v1/sandboxes", json={"template": "ubuntu-24.04"})
    assert response.json()["template"] == "base"


async def test_old_scripts_may_send_cpu_and_memory(http: httpx.AsyncClient) -> None:
    response = await http.post("/v1/sandboxes", json={"template": "base", "cpu": 4, "memory_mb": 9999})
    assert response.status_code == 201
    assert response.json()["memory_mb"] == 512


@pytest.mark.parametrize(
    ("body", "status", "part"),
    [
        (b"{", 400, "not JSON"),
        (b"[]", 400, "JSON object"),
        (b"\xff\xfe", 400, "not JSON"),
        (b'{"template":"nope"}', 404, "there is: base, code-interpreter"),
        (b'{"template":""}', 400, "template"),
        (b'{"template":7}', 400, "template"),
        (b'{"ttl_seconds":-1}', 400, "ttl_seconds must be 1 or more"),
        (b'{"ttl_seconds":0}', 400, "ttl_seconds must be 1 or more"),
        (b'{"ttl_seconds":99999999}', 400, "ttl_seconds exceeds tier maximum: "),
        (b'{"ttl_seconds":"60"}', 400, "ttl_seconds"),
        (b'{"color":"red"}', 400, "unknown field 'color'"),
        (b'{"metadata":{"a":1}}', 400, "metadata.a"),
        (b'{"from_snapshot":"nope"}', 404, "no snapshot nope"),
        (b'{"env":{"A=B":"x"}}', 400, "env"),
        (b'{"env":{"A":"x\\u0000"}}', 400, "env"),
        (b'{"volumes":[{"name":"v"}]}', 501, "volumes"),
        (b'{"on_timeout":"explode"}', 400, "on_timeout"),
        (b'{"metadata":{"fork_tree_id":"mine"}}', 400, "fork_tree_id"),
        (b'{"metadata":{"a":"%s"}}' % (b"x" * 20_000), 400, "metadata is too large"),
        (b'{"metadata":{"a":"%s"}}' % (b"x" * 2_000_000), 413, "too large"),
    ],
)
async def test_bad_creates_are_named(
    http: httpx.AsyncClient, agent: FakeAgent, body: bytes, status: int, part: str
) -> None:
    response = await http.post("/v1/sandboxes", content=body)
    assert response.status_code == status, response.text
    error = response.json()
    assert set(error) == {"error", "code", "request_id"}
    assert part in error["error"]
    assert error["request_id"] == response.headers["x-request-id"]
    assert not agent.created


async def test_no_memory_is_507_and_says_what_is_needed(http: httpx.AsyncClient, agent: FakeAgent) -> None:
    agent.host = replace(agent.host, memory_free_mib=192)
    response = await http.post("/v1/sandboxes", json={})
    assert response.status_code == 507
    assert response.json()["error"].startswith(
        "insufficient host memory for sandbox: needs 512 MiB, 192 MiB free"
    )
    assert not agent.created
    assert (await http.get("/v1/sandboxes")).json() == []


async def test_a_failed_create_leaves_nothing_and_shows_the_console(
    http: httpx.AsyncClient, agent: FakeAgent
) -> None:
    agent.fail_create = VmmFailed("the VMM ended", console_tail="Kernel panic")
    response = await http.post("/v1/sandboxes", json={})
    assert response.status_code == 500
    assert response.json()["code"] == "vmm_failed"
    assert response.json()["console_tail"] == "Kernel panic"
    assert (await http.get("/v1/sandboxes")).json() == []


async def test_a_dead_machine_shows_as_failed_with_its_console(
    http: httpx.AsyncClient, agent: FakeAgent, control: Control
) -> None:
    sandbox_id = await _made(http)
    agent.die(sandbox_id)
    await control.upkeep.watch()
    info = (await http.get(f"/v1/sandboxes/{sandbox_id}")).json()
    assert info["status"] == "failed"
    assert "signal 9" in info["failure"]
    assert info["console_tail"].endswith("the last line")
    refused = await http.post(f"/v1/sandboxes/{sandbox_id}/exec", json={"cmd": "true"})
    assert refused.status_code == 409
    assert "signal 9" in refused.json()["error"]
    assert (await http.delete(f"/v1/sandboxes/{sandbox_id}")).status_code == 204


async def test_another_workspace_sees_nothing(
    app: FastAPI, http: httpx.AsyncClient, stranger: str, agent: FakeAgent
) -> None:
    sandbox_id = await _made(http)
    url = f"/v1/sandboxes/{sandbox_id}"
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test", headers={"X-API-Key": stranger}
    ) as other:
        assert (await other.get("/v1/sandboxes")).json() == []
        calls = [
            ("GET", url, None),
            ("DELETE", url, None),
            ("GET", f"{url}/lifecycle", None),
            ("PATCH", f"{url}/lifecycle", {"ttl_seconds": 5}),
            ("POST", f"{url}/pause", None),
            ("POST", f"{url}/resume", None),
            ("POST", f"{url}/hibernate", None),
            ("POST", f"{url}/wake", None),
            ("POST", f"{url}/rollback", {"snapshot_id": "x"}),
            ("POST", f"{url}/snapshots", None),
            ("POST", f"{url}/fork", None),
            ("POST", f"{url}/fork-tree", {"count": 2}),
            ("POST", f"{url}/promote", None),
            ("GET", f"{url}/tree", None),
            ("POST", f"{url}/exec", {"cmd": "true"}),
            ("POST", f"{url}/exec/stream", {"cmd": "true"}),
            ("GET", f"{url}/logs", None),
            ("GET", f"{url}/logs?follow=1", None),
            ("GET", f"{url}/events", None),
            ("GET", f"{url}/fs?path=a", None),
            ("PUT", f"{url}/fs?path=a", None),
            ("DELETE", f"{url}/fs?path=a", None),
            ("GET", f"{url}/fs/dir?path=a", None),
            ("GET", f"{url}/fs/stat?path=a", None),
        ]
        for method, where, body in calls:
            real = await other.request(method, where, json=body)
            absent = await other.request(method, where.replace(sandbox_id, "a" * 20), json=body)
            assert real.status_code == absent.status_code == 404, (method, where)
            assert real.json()["error"].replace(sandbox_id, "") == absent.json()["error"].replace(
                "a" * 20, ""
            )
    assert sandbox_id in agent.sandboxes


async def test_lifecycle(http: httpx.AsyncClient, clock: TurnableClock, control: Control) -> None:
    sandbox_id = await _made(http, ttl_seconds=100)
    url = f"/v1/sandboxes/{sandbox_id}/lifecycle"
    clock.turn(10)
    assert (await http.get(url)).json() == {"ttl_seconds": 100, "persistent": False, "idle_seconds": 10.0}
    changed = await http.patch(url, json={"ttl_seconds": 50})
    assert changed.json() == {"ttl_seconds": 50, "persistent": False, "idle_seconds": 0.0}
    assert (await http.patch(url, json={"persistent": True})).json()["persistent"] is True
    assert (await http.get(f"/v1/sandboxes/{sandbox_id}")).json()["expires_at"] is None
    assert (await http.patch(url, json={})).status_code == 400
    too_long = await http.patch(url, json={"ttl_seconds": 10**9})
    assert "ttl_seconds exceeds tier maximum" in too_long.json()["error"]


async def test_pause_and_resume(http: httpx.AsyncClient) -> None:
    sandbox_id = await _made(http)
    url = f"/v1/sandboxes/{sandbox_id}"
    assert (await http.post(f"{url}/pause")).status_code == 204
    assert (await http.get(url)).json()["status"] == "paused"
    again = await http.post(f"{url}/pause")
    assert again.status_code == 409
    assert again.json()["code"] == "illegal_transition"
    refused = await http.post(f"{url}/exec", json={"cmd": "true"})
    assert (refused.status_code, refused.json()["code"]) == (409, "not_running")
    assert (await http.post(f"{url}/resume")).status_code == 204
    assert (await http.post(f"{url}/exec", json={"cmd": "true"})).json()["exit_code"] == 0


async def test_one_idempotency_key_is_one_sandbox(http: httpx.AsyncClient, agent: FakeAgent) -> None:
    headers = {"Idempotency-Key": "k1"}
    agent.gate = asyncio.Event()
    sends = [asyncio.create_task(http.post("/v1/sandboxes", json={}, headers=headers)) for _ in range(3)]
    await asyncio.sleep(0.1)
    agent.gate.set()
    replies = await asyncio.gather(*sends)
    assert {reply.status_code for reply in replies} == {201}
    assert len({reply.json()["id"] for reply in replies}) == 1
    assert len(agent.created) == 1
    other = await http.post("/v1/sandboxes", json={"ttl_seconds": 5}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_mismatch")
    await http.delete(f"/v1/sandboxes/{replies[0].json()['id']}")
    gone = await http.post("/v1/sandboxes", json={}, headers=headers)
    assert (gone.status_code, gone.json()["code"]) == (409, "idempotency_gone")


async def test_a_failed_create_frees_its_idempotency_key(http: httpx.AsyncClient, agent: FakeAgent) -> None:
    headers = {"Idempotency-Key": "k2"}
    agent.fail_create = VmmFailed("the VMM ended")
    assert (await http.post("/v1/sandboxes", json={}, headers=headers)).status_code == 500
    agent.fail_create = None
    assert (await http.post("/v1/sandboxes", json={}, headers=headers)).status_code == 201


async def test_templates_are_a_bare_array(http: httpx.AsyncClient) -> None:
    listed = (await http.get("/v1/templates")).json()
    assert [entry["name"] for entry in listed] == ["base", "code-interpreter"]
    one = (await http.get("/v1/templates/ubuntu-24.04")).json()
    assert one == listed[0]
    assert one["meta"]["built_at"]
    assert (await http.get("/v1/templates/nope")).status_code == 404


@pytest.mark.parametrize(("headers", "kept"), [({}, 0), ({"Idempotency-Key": "k"}, 1)])
async def test_a_client_that_hangs_up_mid_create(
    live: httpx.AsyncClient, agent: FakeAgent, control: Control, headers: dict[str, str], kept: int
) -> None:
    agent.gate = asyncio.Event()
    call = asyncio.create_task(live.post("/v1/sandboxes", json={}, headers=headers))
    await eventually(lambda: bool(agent.created), "the create has begun")
    call.cancel()
    await asyncio.sleep(0.3)  # the server sees the closed connection
    agent.gate.set()
    await eventually(lambda: bool(agent.sandboxes or agent.deleted), "the create ends")
    await asyncio.sleep(0.5)
    await control.settle()
    assert len(agent.sandboxes) == kept
