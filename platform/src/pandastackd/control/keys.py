"""API keys: who is calling, and the life of a key.

A key is ``pds_`` and 32 hex digits; ``e2b_`` and the same digits is the same key, for clients that insist
on that spelling. Only the SHA-256 of the digits is stored: they carry 128 random bits, so a slow hash would
add nothing. A key gives the rights of its workspace, never of the workspace's name.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from pandastackd.control.background import Background
from pandastackd.control.clock import Clock
from pandastackd.errors import HostFailure, InvalidRequest, NotFound, Unauthenticated
from pandastackd.store import ApiKeyRow, Store

log = structlog.get_logger(__name__)

DEFAULT_WORKSPACE = "default"
MAX_LABEL = 256
MAX_EXPIRY_DAYS = 3650
CACHE_SECONDS = 5.0
"""How long this process believes what it read of a key; a key revoked by another process works this much
longer.
"""

_KEY = re.compile(r"(?:pds|e2b)_([0-9a-f]{32})")
_CACHE_SIZE = 4096
_USED_RESOLUTION = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling.

    Attributes:
        workspace: the tenant whose resources the call may see.
        prefix: the shown part of the key, for logs.
    """

    workspace: str
    prefix: str
    label: str
    expires_at: datetime | None = None


class Keys:
    """Creates, lists, checks and revokes API keys."""

    def __init__(self, store: Store, background: Background, now: Clock) -> None:
        self._store = store
        self._background = background
        self._now = now
        self._cache: dict[str, tuple[Principal, float]] = {}

    async def ensure_admin(self, path: Path) -> None:
        """Make the first key, once: its secret goes to ``path`` (mode 0600), its hash to the store.

        A key whose file exists is never made again; one that was revoked stays revoked.

        Raises:
            HostFailure: the file holds something else.
        """
        await self._store.keys.ensure_workspace(DEFAULT_WORKSPACE, name="default", now=self._now())
        digits = await asyncio.to_thread(_admin_digits, path)
        row = await self._store.keys.by_hash(_digest(digits))
        if row is None:
            await self._store.keys.add(self._row(digits, DEFAULT_WORKSPACE, "admin", None))
        elif row.revoked_at is not None:
            log.warning("keys.admin_revoked", file=str(path), remedy="delete the file to get a new admin key")

    async def authenticate(self, presented: str | None) -> Principal:
        """The owner of a key.

        Raises:
            Unauthenticated: there is none, or it is unknown, revoked or expired.
        """
        if not presented:
            raise Unauthenticated("no API key; send it as 'Authorization: Bearer pds_…'", code="key_missing")
        match = _KEY.fullmatch(presented.strip())
        if match is None:
            raise Unauthenticated("that is no API key of ours; keys look like pds_ and 32 hex digits")
        digest = _digest(match[1])
        principal = self._cached(digest) or await self._look_up(digest)
        if principal.expires_at is not None and principal.expires_at <= self._now():
            raise Unauthenticated("the API key has expired; create a new one", code="key_expired")
        return principal

    async def create(
        self, principal: Principal, *, label: str, expires_in_days: int | None = None
    ) -> tuple[str, ApiKeyRow]:
        """Make a key for the caller's workspace. The secret is in this answer and nowhere else.

        Raises:
            InvalidRequest: the label is too long or the expiry is out of range.
        """
        if len(label) > MAX_LABEL:
            raise InvalidRequest(f"label is too long: {len(label)} characters, at most {MAX_LABEL}")
        if expires_in_days is not None and not 1 <= expires_in_days <= MAX_EXPIRY_DAYS:
            raise InvalidRequest(
                f"expires_in_days must be from 1 to {MAX_EXPIRY_DAYS}, not {expires_in_days}"
            )
        expires_at = None if expires_in_days is None else self._now() + timedelta(days=expires_in_days)
        while True:
            digits = secrets.token_hex(16)
            row = self._row(digits, principal.workspace, label, expires_at)
            # Taken only when the eight shown digits happen to be in use in this workspace.
            if await self._store.keys.add(row):
                return f"pds_{digits}", row

    async def listed(self, principal: Principal) -> Sequence[ApiKeyRow]:
        """The workspace's keys, newest first, without the revoked."""
        return await self._store.keys.listed(principal.workspace)

    async def revoke(self, principal: Principal, prefix: str) -> None:
        """End a key; at once in this process, within ``CACHE_SECONDS`` in every other.

        Raises:
            NotFound: the workspace has no such key.
        """
        digest = await self._store.keys.revoke(principal.workspace, prefix, now=self._now())
        if digest is None:
            raise NotFound(f"no API key {prefix}")
        self._cache.pop(digest, None)

    def _cached(self, digest: str) -> Principal | None:
        found = self._cache.get(digest)
        return found[0] if found is not None and time.monotonic() < found[1] else None

    async def _look_up(self, digest: str) -> Principal:
        row = await self._store.keys.by_hash(digest)
        if row is None or not hmac.compare_digest(row.hash, digest) or row.revoked_at is not None:
            raise Unauthenticated("the API key is unknown or was revoked")
        principal = Principal(row.workspace, row.prefix, row.label, row.expires_at)
        if len(self._cache) >= _CACHE_SIZE:
            self._cache.clear()
        self._cache[digest] = (principal, time.monotonic() + CACHE_SECONDS)
        now = self._now()
        if row.last_used_at is None or now - row.last_used_at > _USED_RESOLUTION:
            self._background.spawn(self._store.keys.used(digest, now=now), name="key-used")
        return principal

    def _row(self, digits: str, workspace: str, label: str, expires_at: datetime | None) -> ApiKeyRow:
        return ApiKeyRow(
            hash=_digest(digits),
            prefix=f"pds_{digits[:8]}",
            workspace=workspace,
            label=label,
            created_at=self._now(),
            expires_at=expires_at,
            last_used_at=None,
            revoked_at=None,
        )


class AccessTokens:
    """Secrets that sandboxes' public ports demand, derived and therefore stored nowhere.

    Args:
        secret: at least 32 random bytes, the same in every process of one platform.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def from_file(cls, path: Path) -> AccessTokens:
        """Use the secret in ``path``, which is made, with mode 0600, when it is not there.

        Raises:
            HostFailure: the file holds something else.
        """
        if not path.exists():
            _write_private(path, f"{secrets.token_hex(32)}\n")
        text = path.read_text().strip()
        if not re.fullmatch(r"[0-9a-f]{64}", text):
            raise HostFailure(
                f"{path} is damaged; restore it, or delete it and the running sandboxes", code="secret_key"
            )
        return cls(bytes.fromhex(text))

    def of(self, sandbox_id: str) -> str:
        """The token that the guest agent of one sandbox demands."""
        return self.sign("envd", sandbox_id)

    def traffic(self, sandbox_id: str) -> str:
        """The token that the gateway demands for one sandbox, if its ports are not for everybody."""
        return self.sign("traffic", sandbox_id)

    def sign(self, purpose: str, text: str) -> str:
        """What only this platform can say of ``text``; each purpose has signatures of its own."""
        return hmac.new(self._secret, f"{purpose}:{text}".encode(), hashlib.sha256).hexdigest()


def _admin_digits(path: Path) -> str:
    if not path.exists():
        _write_private(path, f"pds_{secrets.token_hex(16)}\n")
    match = _KEY.fullmatch(path.read_text().strip())
    if match is None:
        raise HostFailure(
            f"{path} does not hold a key; delete it, and the next start makes a new one", code="admin_key"
        )
    return match[1]


def _digest(digits: str) -> str:
    return hashlib.sha256(digits.encode()).hexdigest()


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read; whole or not at all, also after a power cut."""
    staging = path.with_name(f".{path.name}.new")
    staging.unlink(missing_ok=True)
    descriptor = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    staging.replace(path)
