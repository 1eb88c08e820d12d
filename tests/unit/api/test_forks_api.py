"""The routes of snapshots, forks and sleep over a fake host: shapes, refusals, clients that hang up. Needs nothing."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from pandastackd.api.forks import _tree_json
from pandastackd.control import Control, Node
from pandastackd.errors import VmmFailed
from tests.unit.fakes import FakeAgent, eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
async def url(http: httpx.AsyncClient) -> str:
    made = await http.post("/v1/sandboxes", json={"template": "base"})
    return f"/v1/sandboxes/{made.json()['id']}"


async def test_a_fork_satisfies_every_consumer(http: httpx.AsyncClient, url: str) -> None:
    for content, children in ((b"", 1), (b'{"count":1,"mode":"warm"}', 1), (b'{"count":3}', 3)):
        response = await http.post(f"{url}/fork", content=content, headers={"content-type": "text/plain"})
        assert response.status_code == 201, response.text
        fork = response.json()
        assert fork["children"] == [each["id"] for each in fork["sandboxes"]]
        assert len(fork["children"]) == children
        assert fork["sandbox"] == fork["sandboxes"][0]
        assert fork["sandbox"]["parent_id"] == fork["parent_id"] == url.rpartition("/")[2]
        assert fork["failures"] == []
        assert fork["at"].endswith("Z")
        assert (fork["parent_pause_ms"], fork["capture_ms"]) == (12.35, 34.5)


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("fork", {"count": 0}),
        ("fork", {"count": 101}),
        ("fork", {"count": True}),
        ("fork", {"mode": "cold"}),
        ("fork", {"metadata": {"a": 1}}),
        ("fork", {"colour": "red"}),
        ("fork-tree", {}),
        ("fork-tree", {"count": 101}),
        ("promote", {"cleanup_siblings": "yes"}),
        ("rollback", {}),
        ("snapshots", {"name": ""}),
        ("hibernate", {"x": 1}),
    ],
)
async def test_bad_bodies_are_refused(
    http: httpx.AsyncClient, agent: FakeAgent, url: str, route: str, body: dict[str, object]
) -> None:
    assert (await http.post(f"{url}/{route}", json=body)).status_code == 400
    assert len(agent.sandboxes) == 1


async def test_one_of_three_children_fails(http: httpx.AsyncClient, agent: FakeAgent, url: str) -> None:
    agent.fail_children = {1: VmmFailed("the VMM ended", console_tail="panic")}
    for route, key in (("fork", "sandboxes"), ("fork-tree", "children")):
        response = await http.post(f"{url}/{route}", json={"count": 3})
        assert response.status_code == 201
        assert len(response.json()[key]) == 2
        assert response.json()["failures"] == [{"index": 1, "error": "the VMM ended", "code": "vmm_failed"}]
    agent.fail_children = {0: VmmFailed("the VMM ended", console_tail="panic")}
    response = await http.post(f"{url}/fork")
    assert (response.status_code, response.json()["code"]) == (500, "vmm_failed")


async def test_a_client_that_hangs_up_mid_fork_leaves_no_orphan(
    live: httpx.AsyncClient, agent: FakeAgent, control: Control, url: str
) -> None:
    agent.gate = asyncio.Event()
    call = asyncio.create_task(live.post(f"{url}/fork", json={"count": 2}))
    await eventually(lambda: len(agent.created) == 3, "the fork has begun")
    call.cancel()
    await asyncio.sleep(0.3)  # the server sees the closed connection
    agent.gate.set()
    await eventually(lambda: len(agent.deleted) == 2, "the children are ended")
    await control.settle()
    assert len(agent.sandboxes) == 1


async def test_snapshots(http: httpx.AsyncClient, url: str) -> None:
    headers = {"Idempotency-Key": "k"}
    made = await http.post(f"{url}/snapshots", json={"name": "before"}, headers=headers)
    assert made.status_code == 201
    assert made.json().items() >= {"name": "before", "size_bytes": 1 << 20, "workspace": "default"}.items()
    again = await http.post(f"{url}/snapshots", json={"name": "before"}, headers=headers)
    assert again.json() == made.json()
    listed = await http.get("/v1/snapshots", params={"sandbox_id": url.rpartition("/")[2]})
    assert listed.json() == [made.json()]
    assert (await http.get("/v1/snapshots?sandbox_id=nope")).json() == []
    one = f"/v1/snapshots/{made.json()['id']}"
    assert (await http.get(one)).json() == made.json()
    assert (await http.delete(one)).status_code == 204
    for method in ("GET", "DELETE"):
        gone = await http.request(method, one)
        assert (gone.status_code, gone.json()["code"]) == (404, "snapshot_not_found")


async def test_sleep_and_use(http: httpx.AsyncClient, url: str) -> None:
    made = await http.post("/v1/sandboxes", json={"on_timeout": "hibernate"})
    assert made.json()["on_timeout"] == "hibernate"
    uses = (
        ("POST", "/exec", {"cmd": "true"}),
        ("POST", "/exec/stream", {"cmd": "true"}),
        ("GET", "/logs", None),
        ("GET", "/fs/dir?path=/", None),
        ("POST", "/fork", None),
        ("POST", "/snapshots", None),
    )
    for method, where, body in uses:
        assert (await http.post(f"{url}/hibernate")).json()["status"] == "hibernated"
        assert (await http.get(url)).json()["status"] == "hibernated"
        assert (await http.request(method, url + where, json=body)).is_success, where
        assert (await http.get(url)).json()["status"] == "running"
    assert (await http.post(f"{url}/wake")).json()["status"] == "running"
    await http.post(f"{url}/pause")
    refused = await http.post(f"{url}/wake")
    assert (refused.status_code, refused.json()["code"]) == (409, "illegal_transition")


async def test_the_tree(http: httpx.AsyncClient, url: str) -> None:
    child = (await http.post(f"{url}/fork")).json()["children"][0]
    await http.delete(f"/v1/sandboxes/{child}")
    tree = (await http.get(f"/v1/sandboxes/{child}/tree")).json()
    assert tree["status"] == "running"
    assert [(each["id"], each["status"], each["children"]) for each in tree["children"]] == [
        (child, "deleted", [])
    ]


def test_a_tree_deeper_than_the_stack() -> None:
    root = Node("0", "running", "base", None, {"a": 'ü"'})
    node = root
    for index in range(20_000):
        node.children.extend(Node(f"{index}-{side}", "running", "base", None, {}) for side in "lr")
        node = node.children[1]
    text = _tree_json(root)
    assert text.count('"id"') == 40_001
    root.children[1].children.clear()
    assert [each["id"] for each in json.loads(_tree_json(root))["children"]] == ["0-l", "0-r"]
