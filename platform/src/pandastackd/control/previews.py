"""Preview tokens: leave to reach one port of one sandbox, for a time and below some paths, without a key.

A token says all that itself and is signed, so nothing is stored. It ends with its time, or with its sandbox.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pandastackd.control.clock import Clock
from pandastackd.control.keys import AccessTokens, Principal
from pandastackd.control.ports import checked_port
from pandastackd.control.sandboxes import Sandboxes
from pandastackd.errors import Forbidden, InvalidRequest, Unauthenticated

MAX_TTL_SECONDS = 7 * 24 * 3600
MAX_PATHS = 16
MAX_PATH = 256
"""Characters of one path."""

_MAX_TOKEN = 16 * 1024


@dataclass(frozen=True, slots=True)
class Preview:
    """What a token gives leave to.

    Attributes:
        paths: prefixes of the paths that may be asked for; all when empty.
    """

    sandbox_id: str
    port: int
    expires_at: datetime
    paths: tuple[str, ...] = ()

    def allows(self, path: str) -> bool:
        """Whether ``path`` may be asked for."""
        return not self.paths or any(_below(path, prefix) for prefix in self.paths)


class Previews:
    """Makes and reads preview tokens."""

    def __init__(self, sandboxes: Sandboxes, tokens: AccessTokens, now: Clock) -> None:
        self._sandboxes = sandboxes
        self._tokens = tokens
        self._now = now

    async def create(
        self, principal: Principal, sandbox_id: str, *, port: int, ttl_seconds: int, paths: Sequence[str] = ()
    ) -> tuple[str, Preview]:
        """A token for a port of the caller's sandbox.

        Raises:
            NotFound: there is no such sandbox.
            InvalidRequest: port, time or paths are out of range.
        """
        row = await self._sandboxes.get(principal, sandbox_id)
        if not 1 <= ttl_seconds <= MAX_TTL_SECONDS:
            raise InvalidRequest(f"ttl_seconds must be from 1 to {MAX_TTL_SECONDS}, not {ttl_seconds}")
        if len(paths) > MAX_PATHS or not all(_is_path(path) for path in paths):
            raise InvalidRequest(
                f"paths must be at most {MAX_PATHS}, each begin with / and have at most {MAX_PATH} characters"
            )
        expires_at = (self._now() + timedelta(seconds=ttl_seconds)).replace(microsecond=0)
        preview = Preview(row.id, checked_port(port), expires_at, tuple(paths))
        content = [preview.sandbox_id, preview.port, int(expires_at.timestamp()), *preview.paths]
        body = _text(json.dumps(content, separators=(",", ":")).encode())
        return f"{body}.{self._signature(body)}", preview

    def read(self, token: str, path: str) -> Preview:
        """What ``token`` gives leave to, if it is ours, still good, and ``path`` is part of it.

        Raises:
            Unauthenticated: it is not ours, or its time is over.
            Forbidden: it is not for this path.
        """
        body, _, signature = token[:_MAX_TOKEN].partition(".")
        if not token.isascii() or not hmac.compare_digest(signature, self._signature(body)):
            raise Unauthenticated("the preview token is not valid", code="preview_token_invalid")
        try:
            sandbox_id, port, expires, *paths = json.loads(
                base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
            )
        except (ValueError, binascii.Error):
            raise Unauthenticated("the preview token is not valid", code="preview_token_invalid") from None
        preview = Preview(sandbox_id, port, datetime.fromtimestamp(expires, UTC), tuple(paths))
        if preview.expires_at <= self._now():
            raise Unauthenticated(
                "the preview token has expired; create a new one", code="preview_token_expired"
            )
        if not preview.allows(path):
            raise Forbidden("the preview token is not for this path", code="preview_path")
        return preview

    def _signature(self, body: str) -> str:
        return self._tokens.sign("preview", body)


def _below(path: str, prefix: str) -> bool:
    # No path with dots in it is matched: what serves it may take them as steps upward.
    if any(part in ("..", ".") for part in path.split("/")):
        return False
    return path == prefix or path.startswith(prefix.rstrip("/") + "/")


def _is_path(path: str) -> bool:
    return path.startswith("/") and len(path) <= MAX_PATH and path.isprintable()


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
