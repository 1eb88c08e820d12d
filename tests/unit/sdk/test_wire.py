"""Every call as it goes over the wire, against the published contract; the same table for sync and async."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from pandastack.testing import MockPlatform

REPL = "/v1/sandboxes/sb/repl/sessions"


@dataclass
class Case:
    """One call and the request it must be."""

    call: Callable[[Any], Any]
    method: str
    path: str
    params: dict[str, str] = field(default_factory=dict)
    body: Any = None
    answer: Any = None


INFO = {"id": "sb", "template": "base"}
CASES = {
    "me": Case(lambda c: c.me(), "GET", "/v1/me"),
    "create": Case(
        lambda c: c.sandboxes.create(
            template="base", ttl_seconds=9, persistent=True, metadata={"a": "b"}, volumes=["v"]
        ),
        "POST",
        "/v1/sandboxes",
        body={
            "template": "base",
            "ttl_seconds": 9,
            "persistent": True,
            "metadata": {"a": "b"},
            "volumes": [{"name": "v", "read_only": False}],
        },
        answer=INFO,
    ),
    "create_plain": Case(
        lambda c: c.sandboxes.create(),
        "POST",
        "/v1/sandboxes",
        body={"template": "code-interpreter"},
        answer=INFO,
    ),
    "create_from_snapshot": Case(
        lambda c: c.sandboxes.create(from_snapshot="sn", on_timeout="hibernate"),
        "POST",
        "/v1/sandboxes",
        body={"template": "code-interpreter", "from_snapshot": "sn", "on_timeout": "hibernate"},
        answer=INFO,
    ),
    "list": Case(lambda c: c.sandboxes.list(), "GET", "/v1/sandboxes", answer=[INFO]),
    "get": Case(lambda c: c.sandboxes.get("sb"), "GET", "/v1/sandboxes/sb", answer=INFO),
    "delete": Case(lambda c: c.sandboxes.delete("sb"), "DELETE", "/v1/sandboxes/sb"),
    "fork": Case(lambda c: c.sandboxes.fork("sb"), "POST", "/v1/sandboxes/sb/fork", answer={"sandbox": INFO}),
    "fork_many": Case(
        lambda c: c.sandboxes.fork("sb", {"k": "v"}, count=2),
        "POST",
        "/v1/sandboxes/sb/fork",
        body={"count": 2, "metadata": {"k": "v"}},
        answer={"children": ["a", "b"], "sandbox": INFO, "sandboxes": [INFO, INFO]},
    ),
    "fork_tree": Case(
        lambda c: c.sandboxes.fork_tree("sb", 1),
        "POST",
        "/v1/sandboxes/sb/fork-tree",
        body={"count": 1},
        answer={"children": [INFO]},
    ),
    "promote": Case(
        lambda c: c.sandboxes.promote("sb", cleanup_siblings=True, tree_id="t"),
        "POST",
        "/v1/sandboxes/sb/promote",
        body={"cleanup_siblings": True, "tree_id": "t"},
        answer={"winner": "sb"},
    ),
    "templates": Case(lambda c: c.templates.list(), "GET", "/v1/templates", answer=[{"name": "base"}]),
    "template": Case(lambda c: c.templates.get("a b"), "GET", "/v1/templates/a%20b", answer={"name": "a b"}),
    "tokens": Case(lambda c: c.tokens.list(), "GET", "/v1/me/tokens", answer={"items": []}),
    "token_create": Case(
        lambda c: c.tokens.create("ci", expires_in_days=3),
        "POST",
        "/v1/me/tokens",
        body={"label": "ci", "expires_in_days": 3},
        answer={"prefix": "p"},
    ),
    "token_revoke": Case(lambda c: c.tokens.revoke("p"), "DELETE", "/v1/me/tokens/p"),
    "snapshots": Case(
        lambda c: c.snapshots.list(sandbox_id="sb"),
        "GET",
        "/v1/snapshots",
        params={"sandbox_id": "sb"},
        answer={"snapshots": []},
    ),
    "snapshot": Case(lambda c: c.snapshots.get("sn"), "GET", "/v1/snapshots/sn", answer={"id": "sn"}),
    "snapshot_delete": Case(lambda c: c.snapshots.delete("sn"), "DELETE", "/v1/snapshots/sn"),
}
EXITED = {"stdout": "", "stderr": "", "exit_code": 0}
ON_SANDBOX = {
    "exec": Case(
        lambda s: s.exec("ls | wc", timeout_seconds=5),
        "POST",
        "/v1/sandboxes/sb/exec",
        body={"cmd": "ls | wc", "timeout_seconds": 5},
        answer=EXITED,
    ),
    "exec_list": Case(
        lambda s: s.exec(["echo", "a b", "c'd"]),
        "POST",
        "/v1/sandboxes/sb/exec",
        body={"cmd": "echo 'a b' 'c'\"'\"'d'"},
        answer=EXITED,
    ),
    "commands_run": Case(
        lambda s: s.commands.run("ls", timeout=1),
        "POST",
        "/v1/sandboxes/sb/exec",
        body={"cmd": "ls", "timeout_seconds": 1},
        answer=EXITED,
    ),
    "run_code": Case(
        lambda s: s.run_code("print('x')"),
        "POST",
        "/v1/sandboxes/sb/exec",
        body={"cmd": "python3 -c 'print('\"'\"'x'\"'\"')'"},
        answer=EXITED,
    ),
    "code_context": Case(
        lambda s: s.create_code_context(), "POST", REPL, body={"language": "python"}, answer={"id": "r"}
    ),
    "pause": Case(lambda s: s.pause(), "POST", "/v1/sandboxes/sb/pause"),
    "resume": Case(lambda s: s.resume(), "POST", "/v1/sandboxes/sb/resume"),
    "hibernate": Case(lambda s: s.hibernate(), "POST", "/v1/sandboxes/sb/hibernate"),
    "wake": Case(lambda s: s.wake(), "POST", "/v1/sandboxes/sb/wake"),
    "kill": Case(lambda s: s.kill(), "DELETE", "/v1/sandboxes/sb"),
    "refresh": Case(lambda s: s.refresh(), "GET", "/v1/sandboxes/sb", answer=INFO),
    "snapshot": Case(lambda s: s.snapshot(), "POST", "/v1/sandboxes/sb/snapshots", answer={"id": "sn"}),
    "rollback": Case(
        lambda s: s.rollback("sn"),
        "POST",
        "/v1/sandboxes/sb/rollback",
        body={"snapshot_id": "sn"},
        answer=INFO,
    ),
    "lifecycle": Case(
        lambda s: s.lifecycle(), "GET", "/v1/sandboxes/sb/lifecycle", answer={"ttl_seconds": 1}
    ),
    "set_ttl": Case(
        lambda s: s.set_ttl(60), "PATCH", "/v1/sandboxes/sb/lifecycle", body={"ttl_seconds": 60}, answer={}
    ),
    "set_persistent": Case(
        lambda s: s.set_persistent(True),
        "PATCH",
        "/v1/sandboxes/sb/lifecycle",
        body={"persistent": True},
        answer={"persistent": True},
    ),
    "network": Case(lambda s: s.network(), "GET", "/v1/sandboxes/sb/network", answer={"internet": False}),
    "set_network": Case(
        lambda s: s.set_network(internet=False, allow_out=["192.0.2.1"]),
        "PUT",
        "/v1/sandboxes/sb/network",
        body={"internet": False, "allow_out": ["192.0.2.1"], "deny_out": []},
        answer={},
    ),
    "tree": Case(lambda s: s.tree(), "GET", "/v1/sandboxes/sb/tree", answer={"id": "sb"}),
    "ports": Case(lambda s: s.preview_urls(), "GET", "/v1/sandboxes/sb/ports", answer=[80]),
    "fs_read": Case(
        lambda s: s.filesystem.read("/a b"), "GET", "/v1/sandboxes/sb/fs", params={"path": "/a b"}, answer=1
    ),
    "fs_write": Case(
        lambda s: s.filesystem.write("/é", "ü"),
        "PUT",
        "/v1/sandboxes/sb/fs",
        params={"path": "/é"},
        body="ü".encode(),
        answer={"path": "/é", "bytes": 2},
    ),
    "fs_remove": Case(
        lambda s: s.filesystem.remove("/a"), "DELETE", "/v1/sandboxes/sb/fs", params={"path": "/a"}
    ),
    "fs_dir": Case(
        lambda s: s.filesystem.listdir("/a"),
        "GET",
        "/v1/sandboxes/sb/fs/dir",
        params={"path": "/a"},
        answer={"path": "/a", "entries": None},
    ),
    "fs_stat": Case(
        lambda s: s.filesystem.stat("/a"),
        "GET",
        "/v1/sandboxes/sb/fs/stat",
        params={"path": "/a"},
        answer={"name": "a"},
    ),
}
CREATES = {"create", "create_plain", "create_from_snapshot", "fork", "fork_many", "fork_tree", "snapshot"}


def _platform(case: Case) -> MockPlatform:
    platform = MockPlatform()
    answer = httpx.Response(204) if case.answer is None else httpx.Response(200, json=case.answer)
    if case.answer is None and case.method == "GET":
        answer = httpx.Response(200, json={})
    platform.on_request(case.method, ".*", answer)
    return platform


def _check(name: str, case: Case, platform: MockPlatform) -> None:
    assert len(platform.requests) == 1
    request = platform.requests[0]
    assert (request.method, request.path, request.params) == (
        case.method,
        httpx.URL(case.path).path,
        case.params,
    )
    if isinstance(case.body, bytes):
        assert request.body == case.body
    elif case.body is None:
        assert request.body == b""
        assert "content-type" not in request.headers
    else:
        assert request.json == case.body
        assert request.headers["content-type"] == "application/json"
    assert request.headers["authorization"] == "Bearer pds_test"
    assert request.headers["user-agent"].startswith("pandastack-python/")
    if case.method == "POST" and name in CREATES and "snapshots/" not in case.path:
        assert len(request.headers["idempotency-key"]) == 32


@pytest.mark.parametrize("name", CASES)
def test_client_calls(name: str) -> None:
    platform = _platform(CASES[name])
    CASES[name].call(platform.client())
    _check(name, CASES[name], platform)


@pytest.mark.anyio
@pytest.mark.parametrize("name", CASES)
async def test_async_client_calls(name: str) -> None:
    platform = _platform(CASES[name])
    await CASES[name].call(platform.async_client())
    _check(name, CASES[name], platform)


@pytest.mark.parametrize("name", ON_SANDBOX)
def test_sandbox_calls(name: str) -> None:
    from pandastack import Sandbox

    platform = _platform(ON_SANDBOX[name])
    ON_SANDBOX[name].call(Sandbox.from_dict(INFO, platform.client()))
    _check(name, ON_SANDBOX[name], platform)


@pytest.mark.anyio
@pytest.mark.parametrize("name", ON_SANDBOX)
async def test_async_sandbox_calls(name: str) -> None:
    from pandastack import AsyncSandbox

    platform = _platform(ON_SANDBOX[name])
    result = ON_SANDBOX[name].call(AsyncSandbox.from_dict(INFO, platform.async_client()))
    assert inspect.isawaitable(result)
    await result
    _check(name, ON_SANDBOX[name], platform)


@pytest.mark.parametrize("bad", ["", ".", ".."])
def test_an_id_that_would_mean_another_request_is_refused(bad: str) -> None:
    platform = MockPlatform()
    with pytest.raises(ValueError, match="not an id"):
        platform.client().sandboxes.delete(bad)
    assert platform.requests == []


def test_an_id_cannot_leave_its_segment() -> None:
    platform = _platform(CASES["get"])
    seen: list[bytes] = []
    platform.on_request("GET", ".*", lambda _request: httpx.Response(200, json=INFO))
    client = platform.client()
    client.http._client.event_hooks = {"request": [lambda request: seen.append(request.url.raw_path)]}
    client.sandboxes.get("a/../b?x#y")
    assert seen == [b"/v1/sandboxes/a%2F..%2Fb%3Fx%23y"]


def test_base_url_may_name_the_version() -> None:
    from pandastack import PandaStack

    platform = MockPlatform()
    PandaStack(base_url="http://mock/v1/", token=platform.key, transport=platform.transport()).me()
    assert platform.requests[0].path == "/v1/me"


def test_cpu_and_memory_are_said_to_have_no_effect() -> None:
    platform = _platform(CASES["create_plain"])
    with pytest.warns(DeprecationWarning, match="no effect"):
        platform.client().sandboxes.create(cpu=4, memory_mb=99)
    assert platform.requests[0].json == {"template": "code-interpreter"}


def test_own_idempotency_key() -> None:
    platform = _platform(CASES["create_plain"])
    platform.client().sandboxes.create(idempotency_key="mine")
    assert platform.requests[0].headers["idempotency-key"] == "mine"


@pytest.mark.parametrize(
    ("answer", "ids"),
    [
        ({"sandbox": INFO}, ["sb"]),
        ({"children": [{**INFO, "id": "x"}]}, ["x"]),
        ({**INFO, "id": "y"}, ["y"]),
        ([{**INFO, "id": "z"}], ["z"]),
        ({"items": [{**INFO, "id": "w"}]}, ["w"]),
        ({"children": ["a"], "sandbox": {**INFO, "id": "a"}, "sandboxes": [{**INFO, "id": "a"}]}, ["a"]),
    ],
)
def test_every_published_shape_of_a_fork_answer(answer: Any, ids: list[str]) -> None:
    platform = MockPlatform()
    platform.on_request("POST", ".*", httpx.Response(200, json=answer))
    assert [child.id for child in platform.client().sandboxes.fork("p", count=1)] == ids


def test_children_known_by_id_only_are_looked_up() -> None:
    platform = MockPlatform()
    platform.on_request("POST", ".*", httpx.Response(200, json={"children": ["kid"]}))
    platform.on_request("GET", ".*", httpx.Response(200, json={"id": "kid", "template": "base", "cpu": 3}))
    assert platform.client().sandboxes.fork("p").cpu == 3
