"""The address that MCP's preview URLs hang under."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from starlette.requests import Request

from pandastackd.api.mcp.desk import Desk
from pandastackd.control.keys import Principal


@pytest.mark.parametrize(
    ("asked", "domain", "host"),
    [
        ("127.0.0.1:8080", None, "localhost:8080"),
        ("[::1]:8080", None, "localhost:8080"),
        ("api.boxes.example", None, "boxes.example"),
        ("boxes.example:81", None, "boxes.example:81"),
        ("127.0.0.1:8080", "boxes.example", "boxes.example"),
    ],
)
def test_what_sandboxes_names_hang_under(asked: str, domain: str | None, host: str) -> None:
    state = SimpleNamespace(control=None, metrics=None, settings=SimpleNamespace(domain=domain))
    scope = {
        "type": "http",
        "scheme": "https",
        "path": "/mcp",
        "headers": [(b"host", asked.encode())],
        "server": ("127.0.0.1", 8080),
        "app": SimpleNamespace(state=state),
        "state": {},
    }
    request = Request(scope)
    desk = Desk.set_up(request, Principal("default", "", ""))
    assert (desk.scheme, desk.host, request.state.desk) == ("https", host, desk)
