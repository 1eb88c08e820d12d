# Generated from _async/_client.py by scripts/generate_sync.py; do not edit.
"""The client: one server, one key, and what can be done there."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

import httpx

from pandastack import _wire
from pandastack._config import Settings, resolve
from pandastack._models import Account
from pandastack._retry import CreateRetryEvent
from pandastack._sync._http import Http
from pandastack._sync._resources import SnapshotsAPI, TemplatesAPI, TokensAPI
from pandastack._sync._sandboxes import SandboxesAPI
from pandastack._wire import Call


class PandaStack:
    """A connection to a PandaStack server.

    Every argument may be left out. The URL comes from ``PANDASTACK_API``, the key from ``PANDASTACK_API_KEY``
    (or ``PANDASTACK_TOKEN``), both else from ``~/.config/pandastack/config.json``; the last resort is a
    server on this machine. One client may be shared by all that runs at once in a program.

    Args:
        api_url: origin of the server; also ``base_url``, ``api_base``.
        api_key: the key; also ``token``.
        timeout: seconds an ordinary request may stay without an answer. Commands have their own.
        max_create_retry_seconds: how long a create goes on trying while there is no capacity; 0 disables it.
            Default: ``PANDASTACK_MAX_CREATE_RETRY_SECONDS`` or 60.
        on_create_retry: told before each such wait.
        preview_host: host that preview URLs hang under.
            Default: ``PANDASTACK_PREVIEW_HOST`` or the server's own.
        transport: how bytes travel; for tests, see ``pandastack.testing``.

    Raises:
        ValueError: two spellings of one argument disagree, or a value is not usable.
    """

    def __init__(
        self,
        api_url: str | None = None,
        api_key: str | None = None,
        timeout: float = 30.0,
        *,
        token: str | None = None,
        base_url: str | None = None,
        api_base: str | None = None,
        max_create_retry_seconds: float | None = None,
        on_create_retry: Callable[[CreateRetryEvent], object] | None = None,
        preview_host: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.settings: Settings = resolve(
            api_url=api_url,
            base_url=base_url,
            api_base=api_base,
            api_key=api_key,
            token=token,
            timeout=timeout,
            max_create_retry_seconds=max_create_retry_seconds,
            preview_host=preview_host,
        )
        self.http = Http(self.settings, transport=transport, on_create_retry=on_create_retry)
        self.sandboxes = SandboxesAPI(self)
        self.templates = TemplatesAPI(self.http)
        self.tokens = TokensAPI(self.http)
        self.snapshots = SnapshotsAPI(self.http)

    @property
    def api_url(self) -> str:
        """The server this client speaks to."""
        return self.settings.api_url

    def me(self) -> Account:
        """Who the key belongs to.

        Raises:
            AuthError: the server does not know the key.
        """
        return Account.from_dict(_wire.mapping(self.http.request(Call("GET", "/me"))))

    def close(self) -> None:
        """Close the connections. The client cannot be used afterwards."""
        self.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(api_url={self.api_url!r})"
