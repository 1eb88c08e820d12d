"""Which port of which sandbox a request is for: by two headers, or by the name of the host it was sent to.

E2b-Sandbox-Id: abc123                 the headers win, since they were set on purpose
E2b-Sandbox-Port: 3000

Host: 3000-abc123.sandboxes.example    anything may follow the first dot
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from pandastackd.errors import InvalidRequest

Headers = Iterable[tuple[bytes, bytes]]
"""Lower-case names, as ASGI has them."""

ID_HEADER: Final = b"e2b-sandbox-id"
PORT_HEADER: Final = b"e2b-sandbox-port"
TOKEN_HEADER: Final = b"e2b-traffic-access-token"

_HOST = re.compile(rb"([0-9]{1,5})-([a-z0-9]{1,64})\.[^/\s]+", re.IGNORECASE)
_ID = re.compile(rb"[a-z0-9]{1,64}")
_PORT = re.compile(rb"[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class Target:
    """A port of a sandbox, and the traffic token that came along, if any."""

    sandbox_id: str
    port: int
    token: str | None = field(default=None, repr=False)


def target_of(headers: Headers) -> Target | None:
    """The sandbox port a request is for; ``None`` when it is for the platform itself.

    Raises:
        InvalidRequest: it says that it is for a sandbox, and does not say properly for which.
    """
    named: dict[bytes, list[bytes]] = {ID_HEADER: [], PORT_HEADER: [], TOKEN_HEADER: [], b"host": []}
    for name, value in headers:
        if name in named:
            named[name].append(value)
    token = named[TOKEN_HEADER][0].decode("latin-1") if named[TOKEN_HEADER] else None
    ids, ports = named[ID_HEADER], named[PORT_HEADER]
    if ids or ports:
        if len(ids) != 1 or len(ports) != 1:
            raise InvalidRequest("send E2b-Sandbox-Id and E2b-Sandbox-Port together, each once")
        return _target(ids[0].strip(), ports[0].strip(), token)
    if len(named[b"host"]) == 1 and (match := _HOST.fullmatch(named[b"host"][0].strip())):
        return _target(match[2].lower(), match[1], token)
    return None


def _target(sandbox_id: bytes, port: bytes, token: str | None) -> Target:
    if not _ID.fullmatch(sandbox_id):
        raise InvalidRequest("E2b-Sandbox-Id is no sandbox id; ids are small letters and digits")
    if not _PORT.fullmatch(port) or not 1 <= int(port) <= 65535:
        raise InvalidRequest("the sandbox's port must be a number from 1 to 65535")
    return Target(sandbox_id.decode("ascii"), int(port), token)
