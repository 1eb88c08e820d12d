"""A WebSocket of a program in a microVM, by each address that leads to its port. Needs root, QEMU and the templates."""

from __future__ import annotations

import httpx
from websockets.sync.client import connect

from pandastack import Sandbox
from pandastackd.child_server import ChildServer

from .test_exec import eventually

PORT = 3000

ECHO = """
import base64, hashlib, socket
server = socket.create_server(("0.0.0.0", 3000))
while True:
    client, _ = server.accept()
    head = b""
    while not head.endswith(b"\\r\\n\\r\\n"):
        head += client.recv(1)
    key = next(line for line in head.decode().split("\\r\\n") if line.lower().startswith("sec-websocket-key"))
    accept = hashlib.sha1((key.split(": ")[1] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
    client.sendall(b"HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
                   b"Sec-WebSocket-Accept: " + base64.b64encode(accept) + b"\\r\\n\\r\\n")
    frame = client.recv(1000)
    kind, size, mask, data = frame[0], frame[1] & 127, frame[2:6], frame[6:]
    said = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data[:size]))
    answer = head.split(b" ")[1] + b" " + said
    client.sendall(bytes([kind, len(answer)]) + answer)
    client.close()
"""


def test_a_websocket_by_every_address_of_a_port(server: ChildServer, sandbox: Sandbox) -> None:
    sandbox.filesystem.write("/tmp/echo.py", ECHO.encode())
    sandbox.exec("setsid nohup python3 /tmp/echo.py >/dev/null 2>&1 &", check=True)
    api = httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {server.admin_key}"})
    ports = f"/v1/sandboxes/{sandbox.id}/ports"
    eventually(lambda: PORT in [port["port"] for port in api.get(ports).json()], "the program listens")
    proxy = next(port["proxy_url"] for port in api.get(ports).json() if port["port"] == PORT)
    preview = api.post(f"/v1/sandboxes/{sandbox.id}/preview-token", json={"port": PORT}).json()["url"]
    for url, headers in (
        (proxy, {"Authorization": f"Bearer {server.admin_key}"}),
        (preview, {}),
        (f"{server.url}/", {"E2b-Sandbox-Id": sandbox.id, "E2b-Sandbox-Port": str(PORT)}),
    ):
        with connect(
            url.replace("http:", "ws:") + "chat?a=b", additional_headers=headers, proxy=None
        ) as socket:
            socket.send("word")
            assert socket.recv(timeout=60) == "/chat?a=b word"
