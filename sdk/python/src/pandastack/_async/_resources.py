"""The small resources: templates, tokens, snapshots."""

from __future__ import annotations

import builtins

from pandastack import _wire
from pandastack._async._http import AsyncHttp
from pandastack._models import Snapshot, Template, Token
from pandastack._wire import Call


class AsyncTemplatesAPI:
    """``client.templates``: what sandboxes can be made from."""

    def __init__(self, http: AsyncHttp) -> None:
        self._http = http

    async def list(self) -> builtins.list[Template]:
        """Every template the account may use."""
        answer = await self._http.request(Call("GET", "/templates"))
        return [Template.from_dict(item) for item in _wire.items(answer, "templates")]

    async def get(self, name: str) -> Template:
        """One template, by its name or an alias.

        Raises:
            NotFoundError: there is none of this name.
        """
        answer = await self._http.request(Call("GET", _wire.path("templates", name)))
        return Template.from_dict(_wire.mapping(answer))

    async def delete(self, name: str) -> None:
        """Remove a template of your own."""
        await self._http.request(Call("DELETE", _wire.path("templates", name)))


class AsyncTokensAPI:
    """``client.tokens``: the account's API keys."""

    def __init__(self, http: AsyncHttp) -> None:
        self._http = http

    async def list(self) -> builtins.list[Token]:
        """Every key, by prefix and name; never the key itself."""
        answer = await self._http.request(Call("GET", "/me/tokens"))
        return [Token.from_dict(item) for item in _wire.items(answer, "tokens")]

    async def create(self, name: str, expires_in_days: int | None = None) -> Token:
        """Make a key. Its ``token`` is shown this once."""
        call = Call(
            "POST",
            "/me/tokens",
            json=_wire.without_none(label=name, expires_in_days=expires_in_days),
            headers=_wire.idempotency(None),
        )
        return Token.from_dict(_wire.mapping(await self._http.request(call)))

    async def revoke(self, prefix: str) -> None:
        """End a key.

        Raises:
            NotFoundError: there is none of this prefix.
        """
        await self._http.request(Call("DELETE", _wire.path("me", "tokens", prefix)))


class AsyncSnapshotsAPI:
    """``client.snapshots``: what ``sandbox.snapshot()`` made."""

    def __init__(self, http: AsyncHttp) -> None:
        self._http = http

    async def list(self, *, sandbox_id: str | None = None) -> builtins.list[Snapshot]:
        """Every snapshot, or those of one sandbox."""
        params = _wire.without_none(sandbox_id=sandbox_id)
        answer = await self._http.request(Call("GET", "/snapshots", params=params))
        return [Snapshot.from_dict(item) for item in _wire.items(answer, "snapshots")]

    async def get(self, snapshot_id: str) -> Snapshot:
        """One snapshot.

        Raises:
            NotFoundError: there is none of this id.
        """
        answer = await self._http.request(Call("GET", _wire.path("snapshots", snapshot_id)))
        return Snapshot.from_dict(_wire.mapping(answer))

    async def delete(self, snapshot_id: str) -> None:
        """Remove a snapshot.

        Raises:
            ConflictError: something runs on it.
        """
        await self._http.request(Call("DELETE", _wire.path("snapshots", snapshot_id)))
