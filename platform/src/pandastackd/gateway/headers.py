"""Which headers go through, and how the length of a body is said on either side."""

from __future__ import annotations

from typing import Final

from pandastackd.gateway.address import ID_HEADER, PORT_HEADER, TOKEN_HEADER, Headers
from pandastackd.gateway.upstream import Head

_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"upgrade",
    }
)
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
# The server below us answers `Expect` itself, and dates every answer.
_NOT_ASKED: Final = _HOP_BY_HOP | _FRAMING | {b"expect", ID_HEADER, PORT_HEADER, TOKEN_HEADER}
_NOT_ANSWERED: Final = _HOP_BY_HOP | _FRAMING | {b"date"}

RawHeaders = list[tuple[bytes, bytes]]


def request_headers(headers: Headers, host: bytes | None = None) -> tuple[RawHeaders, bool, bool]:
    """A request's headers as the guest sees them, whether it has a body, and whether that comes in chunks.

    Args:
        host: what the guest sees as ``Host``; ``None`` is what the client sent.
    """
    given = [(name, value if host is None or name != b"host" else host) for name, value in headers]
    named = _of_connection(given)
    kept = [(name, value) for name, value in given if name not in _NOT_ASKED and name not in named]
    for name, value in given:
        if name == b"transfer-encoding":
            return [*kept, (b"transfer-encoding", b"chunked")], True, True
        if name == b"content-length":
            return [*kept, (b"content-length", value)], value.strip() != b"0", False
    return kept, False, False


def upgrade_headers(headers: Headers, host: bytes | None = None) -> RawHeaders:
    """The headers of a request that asks to leave HTTP; ``host`` as for :func:`request_headers`."""
    given = list(headers)
    kept, _, _ = request_headers(given, host)
    upgrade = [(name, value) for name, value in given if name == b"upgrade"]
    return [*kept, (b"connection", b"Upgrade"), *upgrade]


def answer_headers(head: Head) -> RawHeaders:
    """An answer's headers as the client sees them; the server below us frames a body of unknown length."""
    named = _of_connection(head.headers)
    kept = [(name, value) for name, value in head.headers if name not in _NOT_ANSWERED and name not in named]
    chunked = any(name == b"transfer-encoding" for name, _ in head.headers)
    if not chunked and head.status not in (204, 304):
        kept += [(name, value) for name, value in head.headers if name == b"content-length"][:1]
    if head.status == 101:
        kept += [(name, value) for name, value in head.headers if name in (b"upgrade", b"connection")]
    return kept


def _of_connection(headers: Headers) -> set[bytes]:
    """Headers that are about one connection only, by the word of ``Connection``."""
    return {
        word.strip().lower()
        for name, value in headers
        if name == b"connection"
        for word in value.split(b",")
        if word.strip()
    }
