"""The part of e2b_python.py that is about the network: into sandboxes from outside, and out of them."""

# mypy: ignore-errors
# (its imports exist only in that environment)

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request

from capability import fails
from e2b import CommandExitException, Sandbox

OLD = not hasattr(Sandbox, "update_network")
"""It does not send what it has no word for."""


def asked(box, port, path, **headers):
    """A request by host name; sent to the one address where there is one, since the name leads nowhere then."""
    name = box.get_host(port)
    base = os.environ.get("E2B_SANDBOX_URL", f"https://{name}")
    return urllib.request.Request(f"{base}/{path}", headers={"Host": name, **headers})


def ports(box):
    box.commands.run("python3 -m http.server 3000", background=True)
    assert "Directory listing" in served(box, 3000)


def served(box, port, **headers):
    """What a server in the sandbox says, once it is up."""
    request = asked(box, port, "", **headers)
    for _ in range(100):
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            said = error.read().decode()
        if "port is not open" not in said:
            return said
        time.sleep(0.2)
    raise AssertionError("the port never opened")


OUTSIDE = "python3 -c 'import socket; socket.create_connection((\"1.1.1.1\", 53), 2)'"


def network(box):
    wanted = {"deny_out": ["0.0.0.0/0"], "allow_out": ["192.0.2.0/24"]}
    with Sandbox.create(timeout=600, network=wanted) as walled:
        shown = walled.get_info().network
        assert (shown["allow_out"], shown["deny_out"]) == (["192.0.2.0/24"], ["0.0.0.0/0"])
        fails(CommandExitException, lambda: walled.commands.run(OUTSIDE))
        fails(CommandExitException, lambda: walled.commands.run("getent hosts example.com"))
        if not OLD:
            walled.update_network({"deny_out": ["198.51.100.7"]})
            shown = walled.get_info().network
            assert (list(shown["allow_out"]), shown["deny_out"]) == ([], ["198.51.100.7"])
    with Sandbox.create(timeout=600, allow_internet_access=False) as walled:
        assert walled.get_info().allow_internet_access is False
        fails(CommandExitException, lambda: walled.commands.run(OUTSIDE))
    fails(
        Exception,
        lambda: Sandbox.create(network={"allow_out": ["example.com"], "deny_out": ["0.0.0.0/0"]}),
        "400",
    )
    fails(Exception, lambda: Sandbox.create(network={"allow_out": ["169.254.169.254"]}), "400")


def traffic(box):
    wanted = {"allow_public_traffic": False, "mask_request_host": "localhost:${PORT}"}
    with Sandbox.create(timeout=600, network=wanted) as closed:
        closed.files.write(
            "server.py",
            "import http.server as h\n"
            "class H(h.BaseHTTPRequestHandler):\n"
            "    def do_GET(self):\n"
            "        self.send_response(200); self.end_headers(); self.wfile.write(self.headers['host'].encode())\n"
            "h.HTTPServer(('', 3000), H).serve_forever()\n",
        )
        closed.commands.run("python3 server.py", background=True)
        assert "e2b-traffic-access-token" in served(closed, 3000)
        token = closed.traffic_access_token
        assert served(closed, 3000, **{"e2b-traffic-access-token": token}) == "localhost:3000"


def names(box):
    """All of it under a domain, and by no address."""
    assert "E2B_SANDBOX_URL" not in os.environ
    assert box.sandbox_domain == os.environ["E2B_DOMAIN"]
    assert box.get_host(3000) == f"3000-{box.sandbox_id}.{box.sandbox_domain}"
