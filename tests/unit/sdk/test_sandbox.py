"""The life of a sandbox through the client, against the mock platform."""

from __future__ import annotations

import httpx
import pytest

import pandastack
from pandastack import Execution, Sandbox
from pandastack.testing import MockPlatform


def test_the_example_users_type(monkeypatch: pytest.MonkeyPatch) -> None:
    platform = MockPlatform()
    platform.on_exec("print", stdout="1024\n")
    platform.on_exec("echo forked", stdout="forked\n")
    client = pandastack.PandaStack(token=platform.key, base_url="http://mock", transport=platform.transport())
    sandbox = client.sandboxes.create(template="code-interpreter", ttl_seconds=600)
    assert sandbox.exec("python -c 'print(2 ** 10)'", timeout_seconds=30).stdout == "1024\n"
    branch = sandbox.fork()
    assert branch.exec("echo forked").stdout == "forked\n"
    branch.kill()
    sandbox.kill()
    assert client.sandboxes.list() == []


def test_context_manager_kills() -> None:
    platform = MockPlatform()
    client = platform.client()
    with client.sandboxes.create():
        assert len(client.sandboxes.list()) == 1
    assert client.sandboxes.list() == []
    with client.sandboxes.create(persistent=True):
        pass
    assert len(client.sandboxes.list()) == 1


def test_context_manager_shows_the_bodys_error() -> None:
    client = MockPlatform().client()

    def body() -> None:
        with client.sandboxes.create() as sandbox:
            sandbox.kill()
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        body()
    with client.sandboxes.create() as sandbox:
        sandbox.kill()


def test_snapshot_rollback_and_from_snapshot() -> None:
    client = MockPlatform().client()
    sandbox = client.sandboxes.create()
    sandbox.filesystem.write("/f", "before")
    taken = sandbox.snapshot()
    sandbox.filesystem.write("/f", "after")
    assert client.sandboxes.create(from_snapshot=taken).filesystem.read("/f") == b"before"
    assert sandbox.rollback(client.snapshots.get(taken)).filesystem.read("/f") == b"before"
    assert [snapshot["id"] for snapshot in client.snapshots.list(sandbox_id=sandbox.id)] == [taken]
    client.snapshots.delete(taken)
    assert client.snapshots.list() == []


def test_states_tree_and_lifecycle() -> None:
    client = MockPlatform().client()
    sandbox = client.sandboxes.create()
    child = sandbox.fork({"k": "v"})
    assert child.metadata == {"k": "v"}
    grandchildren = child.fork(count=2)
    assert [node.id for node in child.tree().walk()] == [
        sandbox.id,
        child.id,
        *(grandchild.id for grandchild in grandchildren),
    ]
    sandbox.pause()
    assert sandbox.refresh().status == "paused"
    sandbox.resume()
    sandbox.hibernate()
    assert sandbox.refresh().status == "hibernated"
    sandbox.wake()
    assert sandbox.network().internet
    network = sandbox.set_network(internet=False, allow_out=("192.0.2.0/24",))
    assert (network.internet, network.allow_out, network.deny_out) == (False, ["192.0.2.0/24"], [])
    assert sandbox.network().allow_out == ["192.0.2.0/24"]
    assert sandbox.set_network().internet, "what is left out is cleared"
    assert sandbox.set_ttl(60).ttl_seconds == 60
    assert sandbox.set_persistent(True)["persistent"] is True
    assert sandbox.persistent


def test_default_client() -> None:
    platform = MockPlatform()
    client = platform.client()
    pandastack.set_default_client(client)
    try:
        assert pandastack.get_default_client() is client
        made = Sandbox.create()
        assert made.template == Sandbox.default_template
        assert [sandbox.id for sandbox in Sandbox.list()] == [made.id]
        assert Sandbox.get(made.id) == made
    finally:
        pandastack.set_default_client(None)


def test_code_context() -> None:
    platform = MockPlatform()
    session = "/v1/sandboxes/sandbox1/repl/sessions"
    platform.on_request("POST", session, httpx.Response(201, json={"id": "r1"}))
    platform.on_request("DELETE", f"{session}/r1", httpx.Response(404, json={"error": "gone"}))
    platform.on_request(
        "POST",
        f"{session}/r1/run",
        httpx.Response(
            200,
            json={
                "stdout": "o",
                "stderr": "",
                "exit": 0,
                "duration_ms": 3,
                "results": [
                    {"type": "image/png", "data": "iVBO"},
                    {"text/plain": "4", "application/json": "[1]"},
                ],
            },
        ),
    )
    with platform.client().sandboxes.create().create_code_context() as context:
        ran = context.run_code("2 + 2", timeout_seconds=1.5)
    assert (ran.text, ran.png, ran.stdout, ran.exit_code) == ("4", "iVBO", "o", 0)
    assert ran.results[1].json == [1]
    assert ran.results[0].chart == "iVBO"
    assert platform.requests[2].json == {"code": "2 + 2", "timeout_ms": 1500}


STREAMED = """\
: open

event: stdout
data: {"chunk": "a"}

event: stderr
data: {"chunk": "e"}

event: stdout
data: {"chunk": "b"}

event: result
data: {"data": {"text/plain": "1", "e2b/chart": "{\\"type\\": \\"line\\"}", "e2b/data": "{}"}, "is_main_result": true}

event: of a later version
data: {}

event: exception
data: {"name": "E", "value": "v", "traceback": ""}

event: exit
data: {"exit_code": 1, "duration_ms": 5}

"""


def context_that_streams(text: str) -> pandastack.CodeContext:
    platform = MockPlatform()
    session = "/v1/sandboxes/sandbox1/repl/sessions"
    platform.on_request("POST", session, httpx.Response(201, json={"id": "r1"}))
    headers = {"content-type": "text/event-stream"}
    stream = httpx.Response(200, text=text, headers=headers)
    platform.on_request("POST", f"{session}/r1/run/stream", stream)
    return platform.client().sandboxes.create().create_code_context("r", cwd="/w")


def test_callbacks_hear_of_what_a_cell_does() -> None:
    heard: list[object] = []
    ran = context_that_streams(STREAMED).run_code(
        "code",
        on_stdout=heard.append,
        on_stderr=heard.append,
        on_result=lambda result: heard.append(result.text),
        on_exception=lambda raised: heard.append(raised.name),
    )
    assert heard == ["a", "e", "b", "1", "E"]
    assert (ran.stdout, ran.stderr, ran.exit_code, ran.duration_ms) == ("ab", "e", 1, 5)
    assert ran.error == "E: v"
    assert ran.exception == pandastack.CellException("E", "v", "")
    assert (ran.results[0].chart_data, ran.results[0].table) == ({"type": "line"}, {})


def test_a_cell_that_is_cut_off() -> None:
    begun = STREAMED.partition("event: exit")[0]
    with pytest.raises(pandastack.ExecInterrupted):
        context_that_streams(begun).run_code("code", on_stdout=lambda _: None)
    late = begun + 'event: error\ndata: {"error": "timeout: 1s", "code": "command_timeout"}\n\n'
    with pytest.raises(pandastack.SandboxTimeout):
        context_that_streams(late).run_code("code", on_stdout=lambda _: None)


def test_languages_that_need_a_kernel_run_in_one() -> None:
    platform = MockPlatform()
    cell = {"stdout": "o\n", "stderr": "", "exit": 1, "error": "T", "results": [{"text/plain": "[1] 42"}]}
    platform.on_request("POST", ".*/repl", httpx.Response(200, json=cell))
    ran = platform.client().sandboxes.create().run_code("x", "r", timeout_seconds=2)
    assert (ran.stdout, ran.stderr, ran.exit_code) == ("o\n[1] 42\n", "T\n", 1)
    assert platform.requests[-1].json == {"code": "x", "language": "r", "timeout_ms": 2000}


def test_how_commands_run_is_sent_as_it_was_said() -> None:
    platform = MockPlatform()
    sandbox = platform.client().sandboxes.create(env={"A": "1"})
    assert platform.requests[-1].json["env"] == {"A": "1"}
    how: pandastack.ExecOptions = {"cwd": "/w", "env": {"B": ""}, "user": "root", "stdin": ""}
    for run in (
        lambda: sandbox.exec("x", 5, **how),
        lambda: sandbox.exec_stream("x", timeout_seconds=5, **how),
        lambda: list(sandbox.exec_events("x", 5, **how)),
        lambda: sandbox.commands.run("x", 5, **how),
    ):
        run()
        assert platform.requests[-1].json == {"cmd": "x", "timeout_seconds": 5, **how}
    sandbox.run_code("x", "bash", cwd="/w")
    assert platform.requests[-1].json == {"cmd": "bash -c x", "cwd": "/w"}
    with pytest.raises(TypeError, match="background"):
        sandbox.exec("x", background=True)  # type: ignore[call-arg]


def test_a_kernel_refuses_what_it_does_not_take() -> None:
    platform = MockPlatform()
    platform.on_request("POST", ".*/repl", httpx.Response(200, json={"exit_code": 1, "error": "bad"}))
    sandbox = platform.client().sandboxes.create()
    with pytest.raises(ValueError, match="r runs in a kernel, which takes no cwd and no stdin"):
        sandbox.run_code("1", "r", cwd="/", stdin="x", user=None)
    assert sandbox.run_code("1", "r", env={"A": "1"}).exit_code == 1
    assert platform.requests[-1].json["env"] == {"A": "1"}
    with pytest.raises(pandastack.CommandFailed, match="bad"):
        sandbox.run_code("1", "r", check=True)


def test_a_cell_that_raised() -> None:
    assert Execution.from_dict({"error": "Traceback", "exit": 1}).error == "Traceback"


def test_long_code_goes_through_a_file() -> None:
    platform = MockPlatform()
    sandbox = platform.client().sandboxes.create()
    sandbox.run_code("#" * 200_000)
    assert [request.method for request in platform.requests] == ["POST", "PUT", "POST"]
    path = platform.requests[1].params["path"]
    assert path.endswith(".py")
    assert f"python3 {path}; code=$?; rm -f {path}; exit $code" == platform.requests[2].json["cmd"]


def test_unknown_language() -> None:
    with pytest.raises(ValueError, match="not 'cobol'"):
        MockPlatform().client().sandboxes.create().run_code("x", language="cobol")


@pytest.mark.anyio
async def test_async_life() -> None:
    platform = MockPlatform()
    async with platform.async_client() as client, await client.sandboxes.create() as sandbox:
        assert (await sandbox.exec("true")).exit_code == 0
        await sandbox.filesystem.write("/d/f", "x")
        assert [top async for top, _, _ in sandbox.filesystem.walk("/d")] == ["/d"]
        assert len(await sandbox.fork(count=3)) == 3
        assert len(await client.sandboxes.list()) == 4
    assert len(platform.client().sandboxes.list()) == 3


def test_newer_servers_may_say_more() -> None:
    sandbox = Sandbox.from_dict(
        {"id": "x", "unheard_of": 1, "phases_ms": {"vmm": 1.5}}, MockPlatform().client()
    )
    assert sandbox.phases_ms == {"vmm": 1.5}
