"""A platform that lives in memory, for the tests of programs that use this SDK. No server, no VM, no network.

    platform = MockPlatform()
    platform.on_exec("pytest", stdout="3 passed")
    client = platform.client()
    sandbox = client.sandboxes.create()
    assert sandbox.exec("pytest -q").stdout == "3 passed"
    assert platform.requests[0].path == "/v1/sandboxes"

Sandboxes, files, forks, snapshots and tokens behave; commands answer what ``on_exec`` says. Anything else can
be answered by ``on_request``, also with the refusals a test wants to see.
"""

from __future__ import annotations

import copy
import json
import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from pandastack._async._client import AsyncPandaStack
from pandastack._sync._client import PandaStack

Answer = httpx.Response
Handler = Callable[["Request"], Answer]


@dataclass(frozen=True)
class Request:
    """One request as the platform saw it."""

    method: str
    path: str
    params: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The decoded body; an empty one is an empty object."""
        return json.loads(self.body or b"{}")


@dataclass
class _Guest:
    """One sandbox of the mock."""

    id: str
    template: str
    metadata: dict[str, str] = field(default_factory=dict)
    persistent: bool = False
    ttl_seconds: int = 3600
    status: str = "running"
    parent: str | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)

    def info(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "template": self.template,
            "cpu": 1,
            "memory_mb": 512,
            "status": self.status,
            "metadata": self.metadata,
            "persistent": self.persistent,
            "created_at": "2026-01-01T00:00:00Z",
            "boot_ms": 1,
            "boot_mode": "mock",
        }


class MockPlatform:
    """The platform. ``requests`` holds all it was asked, in order.

    Args:
        key: the API key it accepts; others are answered 401.
    """

    def __init__(self, key: str = "pds_test") -> None:
        self.key = key
        self.requests: list[Request] = []
        self._guests: dict[str, _Guest] = {}
        self._snapshots: dict[str, _Guest] = {}
        self._tokens: dict[str, str] = {}
        self._commands: list[tuple[re.Pattern[str], dict[str, Any]]] = []
        self._overrides: list[tuple[str, re.Pattern[str], Handler]] = []
        self._made = 0

    def client(self, **options: Any) -> PandaStack:
        """A client of this platform."""
        return PandaStack(api_url="http://mock", api_key=self.key, transport=self.transport(), **options)

    def async_client(self, **options: Any) -> AsyncPandaStack:
        """An async client of this platform."""
        return AsyncPandaStack(api_url="http://mock", api_key=self.key, transport=self.transport(), **options)

    def transport(self) -> httpx.MockTransport:
        """The transport by which any client, sync or async, reaches this platform."""
        return httpx.MockTransport(self._receive)

    def on_exec(self, pattern: str, *, stdout: str = "", stderr: str = "", exit_code: int = 0) -> None:
        """Answer commands in which the regular expression ``pattern`` is found. The latest fitting rule wins.

        A command that fits no rule prints nothing and exits with 0.
        """
        result = {"stdout": stdout, "stderr": stderr, "exit_code": exit_code, "duration_ms": 1}
        self._commands.insert(0, (re.compile(pattern), result))

    def on_request(self, method: str, pattern: str, handler: Handler | Answer) -> None:
        """Answer requests whose path (with ``/v1``) matches ``pattern``. The latest fitting rule wins."""
        answer = handler if callable(handler) else lambda _request: handler
        self._overrides.insert(0, (method, re.compile(pattern), answer))

    def _receive(self, raw: httpx.Request) -> Answer:
        request = Request(
            raw.method,
            raw.url.path,
            dict(raw.url.params),
            {name.lower(): value for name, value in raw.headers.items()},
            raw.content,
        )
        self.requests.append(request)
        if request.headers.get("authorization") != f"Bearer {self.key}":
            return _refusal(401, "unauthenticated", "this API key is not known")
        for method, pattern, handler in self._overrides:
            if method == request.method and pattern.fullmatch(request.path):
                return handler(request)
        for method, route, handle in _ROUTES:
            match = re.fullmatch(route, request.path)
            if method == request.method and match:
                try:
                    return handle(self, request, *match.groups())
                except KeyError as error:
                    return _refusal(404, "not_found", f"there is no {error.args[0]}")
        return _refusal(404, "not_found", f"the mock does not serve {request.method} {request.path}")

    def _name(self, kind: str) -> str:
        self._made += 1
        return f"{kind}{self._made}"

    # Handlers: one a route of the table below

    def _me(self, _request: Request) -> Answer:
        return httpx.Response(
            200, json={"user_id": "mock", "email": "mock@example.com", "auth_method": "key"}
        )

    def _list_tokens(self, _request: Request) -> Answer:
        items = [{"prefix": prefix, "label": label} for prefix, label in self._tokens.items()]
        return httpx.Response(200, json={"items": items})

    def _create_token(self, request: Request) -> Answer:
        prefix = self._name("pds_mock")
        self._tokens[prefix] = request.json["label"]
        return httpx.Response(
            201, json={"token": f"{prefix}secret", "prefix": prefix, "label": self._tokens[prefix]}
        )

    def _revoke_token(self, _request: Request, prefix: str) -> Answer:
        del self._tokens[prefix]
        return httpx.Response(204)

    def _templates(self, _request: Request) -> Answer:
        return httpx.Response(200, json=[{"name": "base"}, {"name": "code-interpreter"}])

    def _template(self, _request: Request, name: str) -> Answer:
        return httpx.Response(200, json={"name": name})

    def _create(self, request: Request) -> Answer:
        wanted = request.json
        if wanted.get("from_snapshot"):
            guest = copy.deepcopy(self._snapshots[wanted["from_snapshot"]])
            guest.id, guest.parent = self._name("sandbox"), None
        else:
            guest = _Guest(self._name("sandbox"), wanted["template"])
        guest.metadata = wanted.get("metadata") or {}
        guest.persistent = bool(wanted.get("persistent"))
        guest.ttl_seconds = wanted.get("ttl_seconds") or guest.ttl_seconds
        guest.network = dict(wanted.get("network") or {})
        self._guests[guest.id] = guest
        return httpx.Response(201, json=guest.info())

    def _list(self, _request: Request) -> Answer:
        return httpx.Response(200, json=[guest.info() for guest in self._guests.values()])

    def _get(self, _request: Request, sandbox: str) -> Answer:
        return httpx.Response(200, json=self._guests[sandbox].info())

    def _delete(self, _request: Request, sandbox: str) -> Answer:
        del self._guests[sandbox]
        return httpx.Response(204)

    def _fork(self, request: Request, sandbox: str) -> Answer:
        children = self._children(sandbox, request.json.get("count", 1), request.json.get("metadata") or {})
        return httpx.Response(
            200,
            json={
                "parent_id": sandbox,
                "children": [child.id for child in children],
                "sandbox": children[0].info(),
                "sandboxes": [child.info() for child in children],
            },
        )

    def _fork_tree(self, request: Request, sandbox: str) -> Answer:
        tree = {"fork_tree_id": self._name("tree")}
        children = self._children(sandbox, request.json["count"], (request.json.get("metadata") or {}) | tree)
        return httpx.Response(200, json={"children": [child.info() for child in children], **tree})

    def _children(self, parent: str, count: int, metadata: dict[str, str]) -> list[_Guest]:
        children = []
        for _ in range(count):
            child = copy.deepcopy(self._guests[parent])
            child.id, child.parent, child.metadata = self._name("sandbox"), parent, dict(metadata)
            self._guests[child.id] = child
            children.append(child)
        return children

    def _promote(self, request: Request, sandbox: str) -> Answer:
        tree = request.json.get("tree_id") or self._guests[sandbox].metadata.get("fork_tree_id")
        deleted = []
        if request.json.get("cleanup_siblings"):
            deleted = [
                guest.id
                for guest in self._guests.values()
                if guest.metadata.get("fork_tree_id") == tree and guest.id != sandbox
            ]
            for sibling in deleted:
                del self._guests[sibling]
        return httpx.Response(
            200, json={"winner": sandbox, "tree_id": tree, "deleted": deleted, "failures": {}}
        )

    def _change_state(self, request: Request, sandbox: str) -> Answer:
        states = {"pause": "paused", "resume": "running", "hibernate": "hibernated", "wake": "running"}
        self._guests[sandbox].status = states[posixpath.basename(request.path)]
        return httpx.Response(204)

    def _lifecycle(self, request: Request, sandbox: str) -> Answer:
        guest = self._guests[sandbox]
        if request.method == "PATCH":
            guest.ttl_seconds = request.json.get("ttl_seconds", guest.ttl_seconds)
            guest.persistent = request.json.get("persistent", guest.persistent)
        return httpx.Response(
            200, json={"ttl_seconds": guest.ttl_seconds, "persistent": guest.persistent, "idle_seconds": 0}
        )

    def _network(self, request: Request, sandbox: str) -> Answer:
        network = self._guests[sandbox].network
        if request.method == "PUT":
            network.update({"internet": True, "allow_out": [], "deny_out": [], **request.json})
        return httpx.Response(200, json={"public_traffic": True, "mask_host": None, **network})

    def _tree(self, _request: Request, sandbox: str) -> Answer:
        root = self._guests[sandbox]
        while root.parent in self._guests:
            root = self._guests[root.parent]
        return httpx.Response(200, json=self._node(root))

    def _node(self, guest: _Guest) -> dict[str, Any]:
        children = [self._node(other) for other in self._guests.values() if other.parent == guest.id]
        return {"id": guest.id, "status": guest.status, "template": guest.template, "children": children}

    def _ports(self, _request: Request, sandbox: str) -> Answer:
        return httpx.Response(200, json=[]) if self._guests[sandbox] else httpx.Response(404)

    def _snapshot(self, _request: Request, sandbox: str) -> Answer:
        name = self._name("snapshot")
        self._snapshots[name] = copy.deepcopy(self._guests[sandbox])
        return httpx.Response(201, json=self._snapshot_info(name))

    def _rollback(self, request: Request, sandbox: str) -> Answer:
        self._guests[sandbox].files = dict(self._snapshots[request.json["snapshot_id"]].files)
        return httpx.Response(200, json=self._guests[sandbox].info())

    def _snapshot_info(self, name: str) -> dict[str, Any]:
        guest = self._snapshots[name]
        return {"id": name, "sandbox_id": guest.id, "template": guest.template, "size_bytes": 0}

    def _list_snapshots(self, request: Request) -> Answer:
        wanted = request.params.get("sandbox_id")
        names = [name for name, guest in self._snapshots.items() if wanted in {None, guest.id}]
        return httpx.Response(200, json={"snapshots": [self._snapshot_info(name) for name in names]})

    def _get_snapshot(self, _request: Request, snapshot: str) -> Answer:
        return httpx.Response(200, json=self._snapshot_info(snapshot))

    def _delete_snapshot(self, _request: Request, snapshot: str) -> Answer:
        del self._snapshots[snapshot]
        return httpx.Response(204)

    def _run(self, request: Request) -> dict[str, Any]:
        for pattern, result in self._commands:
            if pattern.search(request.json["cmd"]):
                return result
        return {"stdout": "", "stderr": "", "exit_code": 0, "duration_ms": 0}

    def _exec(self, request: Request, sandbox: str) -> Answer:
        return httpx.Response(200, json=self._run(request)) if self._guests[sandbox] else httpx.Response(404)

    def _exec_stream(self, request: Request, sandbox: str) -> Answer:
        result = self._run(request) if self._guests[sandbox] else {}
        events = [(name, {"chunk": result[name]}) for name in ("stdout", "stderr") if result[name]]
        events.append(("exit", {"exit_code": result["exit_code"]}))
        text = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events)
        return httpx.Response(200, text=text, headers={"content-type": "text/event-stream; charset=utf-8"})

    def _read(self, request: Request, sandbox: str) -> Answer:
        return httpx.Response(200, content=self._guests[sandbox].files[request.params["path"]])

    def _write(self, request: Request, sandbox: str) -> Answer:
        path = request.params["path"]
        self._guests[sandbox].files[path] = request.body
        return httpx.Response(200, json={"path": path, "bytes": len(request.body)})

    def _remove(self, request: Request, sandbox: str) -> Answer:
        files, path = self._guests[sandbox].files, request.params["path"]
        found = [name for name in files if name == path or name.startswith(path.rstrip("/") + "/")]
        if not found:
            raise KeyError(path)
        for name in found:
            del files[name]
        return httpx.Response(204)

    def _stat(self, request: Request, sandbox: str) -> Answer:
        files, path = self._guests[sandbox].files, request.params["path"]
        name = posixpath.basename(path.rstrip("/"))
        if path in files:
            return httpx.Response(200, json={"name": name, "is_dir": False, "size": len(files[path])})
        if any(other.startswith(path.rstrip("/") + "/") for other in files):
            return httpx.Response(200, json={"name": name, "is_dir": True, "size": 0})
        raise KeyError(path)

    def _listdir(self, request: Request, sandbox: str) -> Answer:
        prefix = request.params["path"].rstrip("/") + "/"
        entries: dict[str, dict[str, Any]] = {}
        for name, content in self._guests[sandbox].files.items():
            if name.startswith(prefix):
                head, deeper, _ = name.removeprefix(prefix).partition("/")
                size = 0 if deeper else len(content)
                entries[head] = {"name": head, "is_dir": bool(deeper), "size": size}
        return httpx.Response(200, json={"path": request.params["path"], "entries": list(entries.values())})


def _refusal(status: int, code: str, message: str) -> Answer:
    return httpx.Response(
        status, json={"error": message, "code": code}, headers={"x-request-id": "mock-request"}
    )


_SANDBOX = r"/v1/sandboxes/([^/]+)"
_ROUTES: tuple[tuple[str, str, Callable[..., Answer]], ...] = (
    ("GET", r"/v1/me", MockPlatform._me),
    ("GET", r"/v1/me/tokens", MockPlatform._list_tokens),
    ("POST", r"/v1/me/tokens", MockPlatform._create_token),
    ("DELETE", r"/v1/me/tokens/([^/]+)", MockPlatform._revoke_token),
    ("GET", r"/v1/templates", MockPlatform._templates),
    ("GET", r"/v1/templates/([^/]+)", MockPlatform._template),
    ("POST", r"/v1/sandboxes", MockPlatform._create),
    ("GET", r"/v1/sandboxes", MockPlatform._list),
    ("GET", _SANDBOX, MockPlatform._get),
    ("DELETE", _SANDBOX, MockPlatform._delete),
    ("POST", _SANDBOX + "/fork", MockPlatform._fork),
    ("POST", _SANDBOX + "/fork-tree", MockPlatform._fork_tree),
    ("POST", _SANDBOX + "/promote", MockPlatform._promote),
    ("POST", _SANDBOX + "/(?:pause|resume|hibernate|wake)", MockPlatform._change_state),
    ("GET", _SANDBOX + "/lifecycle", MockPlatform._lifecycle),
    ("PATCH", _SANDBOX + "/lifecycle", MockPlatform._lifecycle),
    ("GET", _SANDBOX + "/network", MockPlatform._network),
    ("PUT", _SANDBOX + "/network", MockPlatform._network),
    ("GET", _SANDBOX + "/tree", MockPlatform._tree),
    ("GET", _SANDBOX + "/ports", MockPlatform._ports),
    ("POST", _SANDBOX + "/snapshots", MockPlatform._snapshot),
    ("POST", _SANDBOX + "/rollback", MockPlatform._rollback),
    ("GET", r"/v1/snapshots", MockPlatform._list_snapshots),
    ("GET", r"/v1/snapshots/([^/]+)", MockPlatform._get_snapshot),
    ("DELETE", r"/v1/snapshots/([^/]+)", MockPlatform._delete_snapshot),
    ("POST", _SANDBOX + "/exec", MockPlatform._exec),
    ("POST", _SANDBOX + "/exec/stream", MockPlatform._exec_stream),
    ("GET", _SANDBOX + "/fs", MockPlatform._read),
    ("PUT", _SANDBOX + "/fs", MockPlatform._write),
    ("DELETE", _SANDBOX + "/fs", MockPlatform._remove),
    ("GET", _SANDBOX + "/fs/stat", MockPlatform._stat),
    ("GET", _SANDBOX + "/fs/dir", MockPlatform._listdir),
)
