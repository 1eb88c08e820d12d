"""The command line, in process, against the mock platform."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from pandastack import PandaStack
from pandastack.cli import _values
from pandastack.cli._session import Session, admin_key
from pandastack.cli.app import app
from pandastack.testing import MockPlatform, Request


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> MockPlatform:
    platform = MockPlatform()

    def client(self: Session) -> PandaStack:
        return platform.client(max_create_retry_seconds=0)

    monkeypatch.setattr(Session, "client", property(client))
    return platform


def run(*args: str, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(app, list(args), input=stdin)


def create(*args: str) -> str:
    return run("sandbox", "create", "-q", *args).stdout.strip()


@pytest.mark.usefixtures("platform")
def test_create_list_get_delete() -> None:
    first = run("sb", "create", "--ttl", "10m", "--metadata", "a=b,c=d", "--metadata", "e=f=g", "-o", "json")
    made = json.loads(first.stdout)
    assert made["metadata"] == {"a": "b", "c": "d", "e": "f=g"}
    table = run("sandbox", "list").stdout
    assert table.splitlines()[0].split()[:3] == ["ID", "TEMPLATE", "STATUS"]
    assert made["id"] in table
    assert json.loads(run("-o", "json", "sandbox", "list").stdout)[0]["id"] == made["id"]
    assert json.loads(run("sandbox", "get", made["id"], "-o", "json").stdout) == made
    assert "a=b,c=d,e=f=g" in run("sandbox", "get", made["id"]).stdout
    assert run("sandbox", "delete", made["id"]).stdout == f"deleted {made['id']}\n"
    assert run("sandbox", "list", "-q").stdout == ""


def test_create_says_it_all(platform: MockPlatform) -> None:
    create(
        "-t",
        "base",
        "--ttl",
        "1h30m",
        "--persistent",
        "--volumes",
        "v:ro,w",
        "--on-timeout",
        "hibernate",
        "--env",
        "MODE=a,b",
    )
    assert platform.requests[0].json == {
        "template": "base",
        "ttl_seconds": 5400,
        "persistent": True,
        "volumes": [{"name": "v", "read_only": True}, {"name": "w", "read_only": False}],
        "env": {"MODE": "a,b"},
        "on_timeout": "hibernate",
    }
    assert run("sandbox", "create", "--env", "no value").exit_code == 2


def test_exec_separates_streams_and_passes_the_status(platform: MockPlatform) -> None:
    platform.on_exec("x", stdout="out ✓\n", stderr="err\n", exit_code=7)
    result = run("sandbox", "exec", create(), "x")
    assert (result.stdout, result.stderr, result.exit_code) == ("out ✓\n", "err\n", 7)
    as_json = run("-o", "json", "sandbox", "exec", create(), "x")
    assert json.loads(as_json.stdout)["stdout"] == "out ✓\n"
    assert as_json.exit_code == 7


@pytest.mark.parametrize(
    ("args", "sent"),
    [
        (["ID", "ls | wc -l"], {"cmd": "ls | wc -l"}),
        (["ID", "ls", "-la", "--color"], {"cmd": "ls -la --color"}),
        (["ID", "touch", "a b", "$x"], {"cmd": "touch 'a b' '$x'"}),
        (["ID", "git", "log", "--", "f"], {"cmd": "git log -- f"}),
        (["ID", "--", "ls", "-la"], {"cmd": "ls -la"}),
        (["ID", "--", "ls | wc"], {"cmd": "ls | wc"}),
        (["--timeout", "2m", "ID", "ls", "--timeout"], {"cmd": "ls --timeout", "timeout_seconds": 120.0}),
        (["ID", "--timeout", "5", "--", "sleep", "9"], {"cmd": "sleep 9", "timeout_seconds": 5.0}),
        (
            ["--cwd", "/w", "-u", "root", "-e", "A=b=c,d", "--env", "B=", "ID", "env", "-u", "A"],
            {"cmd": "env -u A", "cwd": "/w", "user": "root", "env": {"A": "b=c,d", "B": ""}},
        ),
    ],
)
def test_exec_arguments(platform: MockPlatform, args: list[str], sent: dict[str, object]) -> None:
    made = create()
    result = run("sandbox", "exec", *(made if arg == "ID" else arg for arg in args))
    assert (result.exit_code, result.stderr) == (0, "")
    assert platform.requests[-1].json == sent


def test_exec_bytes_are_exact(platform: MockPlatform) -> None:
    events = (
        'event: stdout\ndata: {"chunk": "?", "base64": "/wAN"}\n\nevent: exit\ndata: {"exit_code": -9}\n\n'
    )
    platform.on_request("POST", ".*/exec/stream", httpx.Response(200, text=events))
    result = run("sandbox", "exec", create(), "x")
    assert result.stdout_bytes == b"\xff\x00\r"
    assert result.exit_code == 137


def test_exec_timeout_has_its_own_status(platform: MockPlatform) -> None:
    events = 'event: error\ndata: {"error": "killed after 1 s", "code": "command_timeout"}\n\n'
    platform.on_request("POST", ".*/exec/stream", httpx.Response(200, text=events))
    result = run("sandbox", "exec", create(), "--timeout", "1", "--", "sleep", "9")
    assert (result.exit_code, result.stderr) == (124, "error: killed after 1 s (code command_timeout)\n")


def test_run_code(platform: MockPlatform) -> None:
    platform.on_exec("bash -c 'echo 1'", stdout="1\n")
    made = create()
    assert run("sandbox", "run-code", made, "--language", "bash", "--", "echo 1").stdout == "1\n"
    assert run("sandbox", "run-code", made, "-", "--language", "bash", stdin="echo 1").stdout == "1\n"


def test_run_code_in_a_kernel(platform: MockPlatform) -> None:
    cell = {"stdout": "o\n", "stderr": "", "exit": 1, "error": "T", "results": [{"text/plain": "42"}]}
    platform.on_request("POST", ".*/repl", httpx.Response(200, json=cell))
    done = run("sandbox", "run-code", create(), "--language", "java", "--", "21 * 2")
    assert (done.stdout, done.stderr, done.exit_code) == ("o\n42\n", "T\n", 1)


def test_logs(platform: MockPlatform) -> None:
    platform.on_request("GET", ".*/logs", httpx.Response(200, text="a\nb\n"))
    assert run("sandbox", "logs", create()).stdout == "a\nb\n"


@pytest.mark.usefixtures("platform")
def test_files() -> None:
    made = create()
    assert run("fs", "write", made, "/w/f", "--content", "hello").stdout == "wrote 5 bytes to /w/f\n"
    assert run("fs", "read", made, "--path", "/w/f").stdout == "hello"
    run("fs", "write", made, "/w/bin", stdin=bytes(range(256)))
    assert run("fs", "read", made, "/w/bin").stdout_bytes == bytes(range(256))
    assert [line.split()[-1] for line in run("fs", "ls", made, "/w").stdout.splitlines()] == [
        "NAME",
        "f",
        "bin",
    ]
    assert json.loads(run("fs", "stat", made, "/w/f", "-o", "json").stdout)["size"] == 5
    assert run("fs", "rm", made, "/w/f", "/w/bin").stdout == "removed /w/f\nremoved /w/bin\n"


@pytest.mark.usefixtures("platform")
def test_upload_and_download(tmp_path: Path) -> None:
    made = create()
    (tmp_path / "a").write_bytes(b"\x00x")
    assert run("fs", "upload", made, "--local", str(tmp_path / "a"), "--remote", "/r").exit_code == 0
    assert run("fs", "download", made, "/r", str(tmp_path / "b")).exit_code == 0
    assert (tmp_path / "b").read_bytes() == b"\x00x"
    missing = run("fs", "upload", made, str(tmp_path / "nope"), "/r")
    assert missing.exit_code == 1
    assert missing.stderr.startswith("error: ")


@pytest.mark.usefixtures("platform")
def test_cp(tmp_path: Path) -> None:
    made, other = create(), create()
    (tmp_path / "d/sub").mkdir(parents=True)
    (tmp_path / "d/f").write_text("1")
    (tmp_path / "d/sub/g").write_text("2")
    assert run("cp", str(tmp_path / "d/f"), f"{made}:/x/").exit_code == 0
    assert run("cp", f"{made}:/x/f", f"{other}:/y").exit_code == 0
    assert run("cp", f"{other}:/y", str(tmp_path / "back")).exit_code == 0
    assert (tmp_path / "back").read_text() == "1"
    refused = run("cp", str(tmp_path / "d"), f"{made}:/in")
    assert refused.exit_code == 2
    assert "-r" in refused.stderr
    assert run("cp", "-r", str(tmp_path / "d"), f"{made}:/in").exit_code == 0
    assert run("fs", "read", made, "/in/sub/g").stdout == "2"
    assert run("cp", "-r", f"{made}:/in", str(tmp_path / "out")).exit_code == 0
    assert (tmp_path / "out/sub/g").read_text() == "2"
    assert run("cp", "a", "b").exit_code == 2


@pytest.mark.parametrize("name", ["..", ".", "../evil", "a/b", "x\0y"])
def test_a_guest_cannot_write_outside_the_target(platform: MockPlatform, tmp_path: Path, name: str) -> None:
    def listing(_request: Request) -> httpx.Response:
        return httpx.Response(
            200, json={"path": "/d", "entries": [{"name": name, "is_dir": False, "size": 1}]}
        )

    platform.on_request("GET", ".*/fs/dir", listing)
    platform.on_request("GET", ".*/fs/stat", httpx.Response(200, json={"name": "d", "is_dir": True}))
    platform.on_request("GET", ".*/fs", httpx.Response(200, content=b"x"))
    result = run("cp", "-r", f"{create()}:/d", str(tmp_path / "in"))
    assert result.exit_code == 1
    assert "refused" in result.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.usefixtures("platform")
def test_forks_states_and_snapshots() -> None:
    made = create()
    child = run("sandbox", "fork", made, "-q").stdout.strip()
    assert len(run("sandbox", "fork-tree", child, "--count", "2", "-q").stdout.split()) == 2
    drawn = run("sandbox", "tree", child).stdout
    assert f"└── {child}  running  <- this one\n    ├── " in drawn
    for verb in ("pause", "resume", "hibernate", "wake"):
        assert run("sandbox", verb, made).stdout == f"{verb} {made}\n"
    walled = json.loads(
        run("sandbox", "set-network", made, "--no-internet", "--allow-out", "192.0.2.1", "-o", "json").stdout
    )
    assert (walled["internet"], walled["allow_out"]) == (False, ["192.0.2.1"])
    shown = json.loads(run("sandbox", "network", made, "-o", "json").stdout)
    assert (shown["internet"], shown["deny_out"]) == (False, [])
    assert "60" in run("sandbox", "set-ttl", made, "1m").stdout
    assert (
        json.loads(run("sandbox", "set-ttl", made, "--ttl", "2m", "-o", "json").stdout)["ttl_seconds"] == 120
    )
    assert json.loads(run("sandbox", "set-persistent", made, "true", "-o", "json").stdout)["persistent"]
    taken = run("sandbox", "snapshot", made).stdout.strip()
    assert run("sandbox", "rollback", made, taken).exit_code == 0
    assert taken in run("snapshot", "list", "--sandbox-id", made).stdout
    assert run("snap", "delete", taken).exit_code == 0


@pytest.mark.usefixtures("platform")
def test_previews_templates_tokens_me() -> None:
    made = create()
    assert run("sandbox", "preview-url", made, "80").stdout == f"http://80-{made}.mock\n"
    assert run("sandbox", "preview-url", made, "--port", "80").stdout == f"http://80-{made}.mock\n"
    assert run("sandbox", "preview-url", made).exit_code == 2
    assert "code-interpreter" in run("template", "list").stdout
    token = run("token", "create", "ci")
    assert (token.stdout, "again" in token.stderr) == ("pds_mock2secret\n", True)
    assert run("token", "list").stdout.splitlines()[1].split()[:2] == ["pds_mock2", "ci"]
    assert run("token", "revoke", "pds_mock2").exit_code == 0
    assert "mock@example.com" in run("me").stdout
    assert json.loads(run("whoami", "-o", "json").stdout)["user_id"] == "mock"


def test_errors_are_one_line(platform: MockPlatform) -> None:
    answer = httpx.Response(409, json={"error": "it is paused", "code": "conflict", "request_id": "r9"})
    platform.on_request("POST", ".*/resume", answer)
    result = run("sandbox", "resume", "x")
    assert result.exit_code == 1
    assert result.stderr == "error: it is paused (code conflict, request r9)\n"
    assert result.stdout == ""


def test_children_that_were_made_are_told(platform: MockPlatform) -> None:
    answer = {"children": [{"id": "kid", "template": "base"}], "failures": {"1": "no memory"}}
    platform.on_request("POST", ".*/fork", httpx.Response(200, json=answer))
    result = run("sandbox", "fork", "x", "--count", "2")
    assert result.exit_code == 1
    assert "these children were made: kid" in result.stderr


def test_what_others_named_cannot_steer_the_terminal(platform: MockPlatform) -> None:
    answer = [{"id": "x", "template": "[red]a\x1b[2J", "metadata": {"k": "\u202e"}}]
    platform.on_request("GET", "/v1/sandboxes", httpx.Response(200, json=answer))
    shown = run("sandbox", "list").stdout
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "[red]a" in shown


def test_login_and_logout(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    platform = MockPlatform()
    monkeypatch.setattr("pandastack._sync._http.httpx.HTTPTransport", lambda **_options: platform.transport())
    wrong = run("auth", "login", "--api-url", "http://mock", stdin="wrong\n")
    assert (wrong.exit_code, "not known" in wrong.stderr) == (1, True)
    path = home / ".config/pandastack/config.json"
    assert not path.exists()
    right = run("auth", "login", "--api-url", "http://mock", stdin="pds_test\n")
    assert right.exit_code == 0
    assert "pds_test" not in right.output
    assert json.loads(path.read_text()) == {"api_url": "http://mock", "token": "pds_test"}
    assert path.stat().st_mode & 0o777 == 0o600
    assert "mock@example.com" in run("me").stdout
    assert run("auth", "logout").exit_code == 0
    assert json.loads(path.read_text()) == {"api_url": "http://mock"}
    assert "no key is stored" in run("auth", "logout").stdout


def test_admin_key_is_for_a_server_on_this_machine_only(home: Path) -> None:
    (home / "data").mkdir()
    (home / "data/admin.key").write_text("pds_admin\n")
    assert admin_key() == "pds_admin"
    assert Session().client.settings.api_key == "pds_admin"
    assert Session(api_url="http://127.0.0.1:1").client.settings.api_key == "pds_admin"
    assert Session(api_url="https://far.example").client.settings.api_key is None


def test_own_key_goes_before_the_admin_key(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "data").mkdir()
    (home / "data/admin.key").write_text("pds_admin\n")
    monkeypatch.setenv("PANDASTACK_API_KEY", "pds_mine")
    assert Session().client.settings.api_key == "pds_mine"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("45s", 45), ("10m", 600), ("1h30m", 5400), ("2d", 172800), ("1.5h", 5400), ("500ms", 0.5)],
)
def test_durations(text: str, seconds: float) -> None:
    assert _values.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "10 m", "-5", "1h30", "10mm", "5m x"])
def test_bad_durations(text: str) -> None:
    result = run("sandbox", "create", f"--ttl={text}")
    assert result.exit_code == 2
    assert "duration" in result.stderr


@pytest.mark.parametrize("text", ["0", "500ms", "1.5"])
def test_a_time_to_live_is_whole_seconds(text: str) -> None:
    assert run("sandbox", "create", "--ttl", text).exit_code == 2


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("sb-1:/a b", _values.Remote("sb-1", "/a b")),
        ("./a:/b", "./a:/b"),
        ("a:b", "a:b"),
        ("/a:/b", "/a:/b"),
    ],
)
def test_places(text: str, found: object) -> None:
    assert _values.place(text) == found


def test_no_arguments_is_help() -> None:
    result = run("sandbox")
    assert "create" in result.output


def test_unknown_command() -> None:
    result = run("sandbox", "explode")
    assert result.exit_code == 2
    assert "explode" in result.stderr
