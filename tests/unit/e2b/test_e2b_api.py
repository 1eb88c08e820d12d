"""E2B's control routes over a fake host: shapes, refusals by name, pages, tenants. Needs nothing."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from pandastackd.api import create_app
from pandastackd.api.e2b.unsupported import ROUTES
from pandastackd.config import Settings
from pandastackd.control import Control, CreateRequest, Principal
from pandastackd.domain import Egress
from pandastackd.errors import Conflict, HostFailure, VmmFailed
from pandastackd.guest.types import LogLine
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
        ({"autoPauseMemory": False}, "autoPauseMemory"),
        ({"network": {"allowOut": ["*.example.com"], "denyOut": ["0.0.0.0/0"]}}, "domain names"),
        ({"network": {"dnsServers": ["9.9.9.9"]}}, "network.dnsServers"),
        ({"network": {"egressProxy": {"address": "proxy.example:1080"}}}, "network.egressProxy"),
        ({"network": {"httpsPorts": [3000]}}, "network.httpsPorts"),
        ({"network": {"rules": {"example.com": []}}}, "network.rules"),
        ({"network": {"somethingNew": 1}}, "network.somethingNew"),
        ({"network": {"denyOut": ["1.2.3"]}}, "deny_out"),
        ({"network": {"allowOut": ["10.0.0.1"], "denyOut": ["0.0.0.0/0"]}}, "10.0.0.1/32 is a private"),
        ({"network": {"allowOut": ["169.254.169.254"]}}, "closed to every sandbox"),
        ({"network": {"allowOut": ["1.1.1.1"]}}, "nothing is denied"),
        ({"network": {"maskRequestHost": "a\r\nb: c"}}, "maskRequestHost"),
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


async def test_a_timeout_is_an_end_that_use_does_not_move(
    e2b: httpx.AsyncClient, control: Control, clock: TurnableClock
) -> None:
    made = await make(e2b, timeout=60)
    path = f"/sandboxes/{made['sandboxID']}"

    async def end() -> float:
        ends = datetime.fromisoformat((await e2b.get(path)).json()["endAt"])
        return (ends - clock.time).total_seconds()

    assert await end() == 60
    clock.turn(20)
    async with control.traffic.reach(made["sandboxID"]):
        pass
    await control.settle()
    assert await end() == 40
    assert (await e2b.post(f"{path}/connect", json={"timeout": 30})).status_code == 200
    assert await end() == 40, "a connect never shortens"
    assert (await e2b.post(f"/v2{path}/connect", json={"timeout": 100})).status_code == 200
    assert await end() == 100
    assert (await e2b.post(f"{path}/refreshes", json={"duration": 50})).status_code == 204
    assert await end() == 100
    assert (await e2b.post(f"{path}/timeout", json={"timeout": 5})).status_code == 204
    assert await end() == 5
    clock.turn(6)
    await control.upkeep.reap()
    assert (await e2b.get(path)).status_code == 404


async def test_a_pause_stops_the_time_and_a_resume_begins_it(
    e2b: httpx.AsyncClient, control: Control, clock: TurnableClock
) -> None:
    made = await make(e2b, timeout=60)
    path = f"/sandboxes/{made['sandboxID']}"
    assert (await e2b.post(f"{path}/pause", json={})).status_code == 204
    clock.turn(24 * 3600)
    await control.upkeep.reap()
    assert (await e2b.get(path)).json()["state"] == "paused"
    assert (await e2b.post(f"{path}/connect", json={"timeout": 10})).status_code == 201
    clock.turn(11)
    await control.upkeep.reap()
    assert (await e2b.get(path)).status_code == 404


async def test_our_own_api_counts_from_use_also_after_a_connect(
    e2b: httpx.AsyncClient, control: Control, admin: Principal, clock: TurnableClock
) -> None:
    row = await control.sandboxes.create(admin, CreateRequest(template="base", ttl_seconds=60))
    assert (await e2b.post(f"/sandboxes/{row.id}/connect", json={"timeout": 90})).status_code == 200
    clock.turn(80)
    async with control.traffic.reach(row.id):
        pass
    await control.settle()
    clock.turn(80)
    await control.upkeep.reap()
    assert (await control.sandboxes.get(admin, row.id)).state == "running"


@pytest.mark.parametrize("asked", [None, {"enabled": True}, {"enabled": False}])
async def test_traffic_wakes_unless_it_was_said_not_to(
    e2b: httpx.AsyncClient, agent: FakeAgent, asked: dict[str, bool] | None, control: Control
) -> None:
    made = await make(e2b, autoPause=True, **({} if asked is None else {"autoResume": asked}))
    wakes = asked is None or asked["enabled"]
    path = f"/sandboxes/{made['sandboxID']}"
    assert (await e2b.get(path)).json()["lifecycle"] == {"autoResume": wakes, "onTimeout": "pause"}
    assert (await e2b.post(f"{path}/pause", json={})).status_code == 204
    if wakes:
        async with control.traffic.reach(made["sandboxID"]):
            assert agent.moves == ["hibernate", "wake"]
        return
    with pytest.raises(Conflict, match="resume it first"):
        async with control.traffic.reach(made["sandboxID"]):
            pass
    assert agent.moves == ["hibernate"]
    forked = (await e2b.post(f"{path}/fork", json={})).json()  # asked for by its owner: that does wake it
    child = f"/sandboxes/{forked[0]['sandbox']['sandboxID']}"
    assert (await e2b.get(child)).json()["lifecycle"]["autoResume"] is False


async def test_forks_live_as_long_as_was_asked_and_may_fail_in_part(
    e2b: httpx.AsyncClient, agent: FakeAgent, clock: TurnableClock
) -> None:
    made = await make(e2b, timeout=900)
    agent.fail_children = {1: VmmFailed("it broke")}
    answer = await e2b.post(f"/sandboxes/{made['sandboxID']}/fork", json={"count": 2, "timeout": 30})
    assert answer.status_code == 201
    child, error = answer.json()
    assert error["error"] == {"code": 500, "message": "it broke", "error_code": "vmm_failed"}
    detail = (await e2b.get(f"/sandboxes/{child['sandbox']['sandboxID']}")).json()
    assert (datetime.fromisoformat(detail["endAt"]) - clock.time).total_seconds() == 30


async def test_moves_that_are_done_already_are_conflicts(e2b: httpx.AsyncClient) -> None:
    made = await make(e2b, timeout=60)
    path = f"/sandboxes/{made['sandboxID']}"
    assert (await e2b.post(f"{path}/resume", json={})).status_code == 409
    assert (await e2b.post(f"{path}/pause", json={"memory": False})).status_code == 400
    assert (await e2b.post(f"{path}/pause", json={})).status_code == 204
    assert (await e2b.post(f"{path}/pause", json={})).status_code == 409
    again = await e2b.post(f"{path}/connect", json={"timeout": 50})
    assert (again.status_code, again.json()["envdAccessToken"]) == (201, made["envdAccessToken"])


async def test_a_snapshot_is_a_template(e2b: httpx.AsyncClient, agent: FakeAgent) -> None:
    made = await make(e2b)
    path = f"/sandboxes/{made['sandboxID']}/snapshots"
    first, second = [(await e2b.post(path, json={"name": "mine"})).json() for _ in range(2)]
    unnamed = (await e2b.post(path, json={})).json()
    assert (second["names"], unnamed["names"]) == (["mine"], [])
    for template in (second["snapshotID"], "mine", "mine:default"):
        await make(e2b, templateID=template)
        assert agent.created[-1].snapshot_id in (first["snapshotID"], second["snapshotID"])
    seen: list[str] = []
    params: dict[str, Any] = {"limit": 1, "sandboxID": made["sandboxID"]}
    while True:
        page = await e2b.get("/snapshots", params=params)
        seen += [each["snapshotID"] for each in page.json()]
        if "x-next-token" not in page.headers:
            break
        params["nextToken"] = page.headers["x-next-token"]
    assert sorted(seen) == sorted([first["snapshotID"], second["snapshotID"], unnamed["snapshotID"]])
    assert len((await e2b.get("/snapshots", params={"name": "mine"})).json()) == 2
    alias = (await e2b.get("/templates/aliases/mine")).json()
    assert alias["templateID"] in (first["snapshotID"], second["snapshotID"])
    assert alias["public"] is False
    assert len((await e2b.get("/snapshots", params={"name": unnamed["snapshotID"]})).json()) == 1
    for name in (unnamed["snapshotID"], "mine", "mine"):
        assert (await e2b.delete(f"/templates/{name}")).status_code == 204
    for name in ("mine", "base", first["snapshotID"]):
        assert (await e2b.delete(f"/templates/{name}")).status_code == 404


async def test_logs_are_read_a_piece_at_a_time(e2b: httpx.AsyncClient, agent: FakeAgent) -> None:
    made = await make(e2b)
    guest = agent.guests[made["sandboxID"]]
    guest.lines = [
        LogLine("stderr" if n % 5 == 0 else "stdout", f"line {n}", 1000 + n / 10) for n in range(20)
    ]
    path = f"/sandboxes/{made['sandboxID']}/logs"

    async def read(path: str, **params: Any) -> list[str]:
        answer = await e2b.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return [
            entry.get("message", entry.get("line")).removeprefix("line ") for entry in answer.json()["logs"]
        ]

    assert await read(path, limit=3) == ["17", "18", "19"]
    assert await read(path, limit=3, start=1_000_500) == ["5", "6", "7"]
    assert await read(f"/v2{path}", limit=3) == ["0", "1", "2"]
    assert await read(f"/v2{path}", limit=2, cursor=1_000_200) == ["2", "3"]
    assert await read(f"/v2{path}", limit=2, direction="backward") == ["19", "18"]
    assert await read(f"/v2{path}", limit=2, direction="backward", cursor=1_000_200) == ["2", "1"]
    assert await read(f"/v2{path}", level="error") == ["0", "5", "10", "15"]
    assert await read(f"/v2{path}", search="line 1", limit=2, direction="backward") == ["19", "18"]
    assert (await e2b.get(f"/v2{path}", params={"limit": 1001})).json()["code"] == 400


async def test_the_network_goes_from_create_to_the_host_and_on_to_forks(
    e2b: httpx.AsyncClient, agent: FakeAgent
) -> None:
    made = await make(
        e2b,
        allow_internet_access=False,
        network={"allowOut": ["1.1.1.1", "8.8.8.7/24"], "denyOut": ["::/0"], "allowPublicTraffic": None},
    )
    wanted = Egress(("1.1.1.1/32", "8.8.8.0/24"), ("0.0.0.0/0",))
    assert agent.created[-1].egress == wanted
    path = f"/sandboxes/{made['sandboxID']}"
    detail = (await e2b.get(path)).json()
    assert (detail["allowInternetAccess"], detail["network"]["allowOut"]) == (
        False,
        ["1.1.1.1", "8.8.8.7/24"],
    )
    forked = (await e2b.post(f"{path}/fork", json={})).json()
    assert agent.created[-1].egress == wanted

    assert (await e2b.put(f"{path}/network", json={"denyOut": ["9.9.9.9"]})).status_code == 204
    assert agent.egress[made["sandboxID"]] == Egress((), ("9.9.9.9/32",))
    assert agent.egress[forked[0]["sandbox"]["sandboxID"]] == wanted
    detail = (await e2b.get(path)).json()
    assert (detail["allowInternetAccess"], detail["network"]["denyOut"]) == (True, ["9.9.9.9"])

    refused = await e2b.put(f"{path}/network", json={"allowOut": ["example.com"]})
    assert (refused.status_code, refused.json()["error_code"]) == (400, "not_supported")
    agent.fail_move = HostFailure("nft refused")
    assert (await e2b.put(f"{path}/network", json={"allow_internet_access": False})).status_code == 500
    assert (await e2b.get(path)).json()["allowInternetAccess"] is True


async def test_a_private_range_is_allowed_only_where_the_operator_opened_it(
    e2b: httpx.AsyncClient, agent: FakeAgent, settings: Settings
) -> None:
    settings.openable_networks = [IPv4Network("10.1.0.0/16")]
    await make(e2b, network={"allowOut": ["10.1.2.3"]})
    assert agent.created[-1].egress == Egress(("10.1.2.3/32",), ())
    refused = await e2b.post("/sandboxes", json={"network": {"allowOut": ["10.2.0.0/16"]}})
    assert (refused.status_code, refused.json()["error_code"]) == (400, "network_closed")


async def test_our_own_api_has_the_same_network(http: httpx.AsyncClient, agent: FakeAgent) -> None:
    wanted = {"internet": False, "allow_out": ["1.1.1.1"], "public_traffic": False}
    made = (await http.post("/v1/sandboxes", json={"template": "base", "network": wanted})).json()
    path = f"/v1/sandboxes/{made['id']}/network"
    shown = (await http.get(path)).json()
    assert {name: shown[name] for name in wanted} == wanted
    assert re.fullmatch("[0-9a-f]{64}", shown["traffic_token"])
    assert agent.egress[made["id"]] == Egress(("1.1.1.1/32",), ("0.0.0.0/0",))
    changed = (await http.put(path, json={"deny_out": ["8.8.8.8"]})).json()
    assert (changed["internet"], changed["deny_out"], changed["public_traffic"]) == (True, ["8.8.8.8"], False)
    assert agent.egress[made["id"]] == Egress((), ("8.8.8.8/32",))
    bad = await http.put(path, json={"deny_out": ["nonsense"]})
    assert (bad.status_code, bad.json()["code"]) == (400, "invalid_network")
    assert (await http.put("/v1/sandboxes/none/network", json={})).status_code == 404


async def test_metrics_have_a_past(e2b: httpx.AsyncClient, agent: FakeAgent) -> None:
    made = await make(e2b)
    path = f"/sandboxes/{made['sandboxID']}"
    now = await agent.guests[made["sandboxID"]].usage()
    agent.past[made["sandboxID"]] = [replace(now, time=now.time - age) for age in (30, 15)]

    async def times(**params: int) -> list[int]:
        points = (await e2b.get(f"{path}/metrics", params=params)).json()
        return [now.time - point["timestampUnix"] for point in points]

    assert await times() == [30, 15, 0]
    assert await times(start=now.time - 15) == [15, 0]
    assert await times(start=now.time - 40, end=now.time - 1) == [30, 15]
    ids = ",".join([made["sandboxID"], "gone", made["sandboxID"], ""])
    several = (await e2b.get("/sandboxes/metrics", params={"sandbox_ids": ids})).json()
    assert list(several["sandboxes"]) == [made["sandboxID"]]
    assert several["sandboxes"][made["sandboxID"]]["memTotal"] == 512
    assert (await e2b.post(f"{path}/pause", json={})).status_code == 204
    assert await times() == [30, 15]
    assert agent.moves == ["hibernate"]
    many = ",".join(str(n) for n in range(101))
    assert (await e2b.get("/sandboxes/metrics", params={"sandbox_ids": many})).status_code == 400


async def test_our_own_metrics_are_of_the_machine(http: httpx.AsyncClient) -> None:
    made = (await http.post("/v1/sandboxes", json={"template": "base"})).json()
    path = f"/v1/sandboxes/{made['id']}"
    used = (await http.get(f"{path}/metrics")).json()
    assert used == {
        "pid": 4711,
        "uptime_seconds": 12.5,
        "host_cpu_percent": 50.0,
        "host_rss_bytes": 1 << 27,
        "host_vsz_bytes": 1 << 30,
        "threads": 5,
    }
    await http.post(f"{path}/hibernate")
    asleep = await http.get(f"{path}/metrics")
    assert (asleep.status_code, asleep.json()["code"]) == (409, "not_running")


async def test_strangers_learn_nothing_and_every_error_has_one_shape(app: FastAPI) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as anonymous:
        for method, path in (
            ("POST", "/v2/sandboxes"),
            ("POST", "/sandboxes/x/connect"),
            ("PUT", "/sandboxes/x/network"),
            ("GET", "/v2/sandboxes?limit=x"),
            ("POST", "/volumes"),
        ):
            answer = await anonymous.request(method, path, content=b"not json")
            assert (answer.status_code, answer.json()["code"]) == (401, 401), path
        for method, path, status in (("GET", "/nowhere", 404), ("PATCH", "/v2/sandboxes", 405)):
            answer = await anonymous.request(method, path)
            assert (answer.status_code, answer.json()["code"]) == (status, status)
            assert set(answer.json()) == {"code", "message", "error_code"}


async def test_the_domain_is_the_operators(
    control: Control, settings: Settings, tmp_path: Path, admin: Principal
) -> None:
    app = create_app(control, settings.model_copy(update={"domain": "sandboxes.example"}))
    key = (tmp_path / "admin.key").read_text().strip()
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test", headers={"X-API-Key": key}
    ) as client:
        made = await make(client)
        detail = (await client.get(f"/sandboxes/{made['sandboxID']}")).json()
    assert made["domain"] == detail["domain"] == "sandboxes.example"


async def test_templates_are_there_to_look_at(e2b: httpx.AsyncClient) -> None:
    names = [each["templateID"] for each in (await e2b.get("/templates")).json()]
    assert names == ["base", "code-interpreter"]
    assert (await e2b.get("/templates/aliases/ubuntu-24.04")).json() == {"templateID": "base", "public": True}
    assert (await e2b.get("/templates/aliases/nope")).status_code == 404
