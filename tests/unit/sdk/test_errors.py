"""What comes back as which exception, and what it carries."""

from __future__ import annotations

import httpx
import pytest

import pandastack
from pandastack.testing import MockPlatform


def _client(answer: httpx.Response) -> pandastack.PandaStack:
    platform = MockPlatform()
    platform.on_request("GET", ".*", answer)
    platform.on_request("POST", ".*", answer)
    return platform.client(max_create_retry_seconds=0)


@pytest.mark.parametrize(
    ("status", "kind", "published"),
    [
        (400, "BadRequestError", "BadRequestError"),
        (401, "AuthError", "AuthError"),
        (403, "ForbiddenError", "BadRequestError"),
        (404, "NotFoundError", "NotFoundError"),
        (409, "ConflictError", "BadRequestError"),
        (413, "TooLargeError", "BadRequestError"),
        (418, "BadRequestError", "BadRequestError"),
        (429, "RateLimitError", "BadRequestError"),
        (500, "ServerError", "ServerError"),
        (501, "NotBuiltError", "ServerError"),
        (503, "CapacityError", "ServerError"),
        (507, "CapacityError", "ServerError"),
        (302, "BadRequestError", "BadRequestError"),
    ],
)
def test_status_to_exception(status: int, kind: str, published: str) -> None:
    body = {"error": "what happened", "code": "a_code", "retryable": True}
    client = _client(httpx.Response(status, json=body, headers={"x-request-id": "r1"}))
    with pytest.raises(pandastack.PandastackError) as caught:
        client.me()
    error = caught.value
    assert type(error) is getattr(pandastack, kind)
    assert isinstance(error, getattr(pandastack, published))
    assert str(error) == "what happened"
    assert (error.status_code, error.code, error.request_id) == (status, "a_code", "r1")
    assert error.retryable is True


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (httpx.Response(500, json={"message": "m"}), "m"),
        (httpx.Response(500, json={"detail": "d"}), "d"),
        (httpx.Response(502, text="<html>Bad\n Gateway"), "HTTP 502: <html>Bad Gateway"),
        (httpx.Response(500), "HTTP 500"),
        (httpx.Response(302, headers={"location": "https://x"}), "the server redirects to https://x"),
        (httpx.Response(200, text="<html>"), "not JSON"),
        (httpx.Response(200, json=[1]), "list where an object belongs"),
    ],
)
def test_messages(answer: httpx.Response, message: str) -> None:
    with pytest.raises(pandastack.PandastackError, match=r".*") as caught:
        _client(answer).me()
    assert message in str(caught.value)


def test_not_found_is_asked_once() -> None:
    platform = MockPlatform()
    with pytest.raises(pandastack.NotFoundError):
        platform.client().sandboxes.delete("nope")
    assert len(platform.requests) == 1


def test_no_key_is_refused_before_anything_is_sent() -> None:
    platform = MockPlatform()
    client = pandastack.PandaStack(api_url="http://mock", transport=platform.transport())
    with pytest.raises(pandastack.AuthError, match="no API key"):
        client.me()
    assert platform.requests == []


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (504, {"error": "the command was killed", "code": "command_timeout", "stdout": "so far"}),
        (504, {"error": "command timed out: deadline exceeded"}),
        (500, {"error": "exec: timeout"}),
    ],
)
def test_exec_timeouts(status: int, body: dict[str, str]) -> None:
    client = _client(httpx.Response(status, json=body))
    sandbox = pandastack.Sandbox.from_dict({"id": "sb"}, client)
    with pytest.raises(pandastack.SandboxTimeout) as caught:
        sandbox.exec("sleep 9", timeout_seconds=1)
    assert caught.value.status_code == status
    assert caught.value.stdout == body.get("stdout", "")


def test_a_guest_that_cannot_be_reached_is_no_exec_timeout() -> None:
    client = _client(httpx.Response(502, json={"error": "dial: i/o timeout"}))
    with pytest.raises(pandastack.ServerError):
        pandastack.Sandbox.from_dict({"id": "sb"}, client).exec("true")


def test_check_raises_with_the_output() -> None:
    client = _client(httpx.Response(200, json={"stdout": "o", "stderr": "no such thing\n", "exit_code": 3}))
    with pytest.raises(pandastack.CommandFailed, match="exited with 3: no such thing") as caught:
        pandastack.Sandbox.from_dict({"id": "sb"}, client).exec("false", check=True)
    assert (caught.value.exit_code, caught.value.stdout) == (3, "o")


def test_server_away() -> None:
    client = pandastack.PandaStack(api_url="http://127.0.0.1:9", api_key="k")
    with pytest.raises(pandastack.ConnectionError, match="is the server running") as caught:
        client.me()
    assert caught.value.sent is False
    assert caught.value.status_code is None


def test_missing_children_are_never_a_plain_success() -> None:
    answer = {
        "children": [{"id": "a", "template": "base"}],
        "failures": [{"index": 1, "error": "no memory"}],
    }
    client = _client(httpx.Response(200, json=answer))
    with pytest.raises(pandastack.ForkIncomplete, match="1 of 2 children were made: no memory") as caught:
        client.sandboxes.fork("p", count=2)
    assert [child.id for child in caught.value.children] == ["a"]
    assert caught.value.failures == {"1": "no memory"}


def test_key_is_not_shown() -> None:
    client = pandastack.PandaStack(api_key="pds_secret")
    assert "secret" not in repr(client)
    assert "secret" not in repr(client.settings)
    assert "secret" not in repr(pandastack.Token("p", token="pds_secret"))
