"""Where the server is and which key to show it: from arguments, environment, config file or defaults."""

from __future__ import annotations

import ipaddress
import json
import math
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pandastack.errors import AuthError

DEFAULT_API_URL = "http://127.0.0.1:8080"
DEFAULT_RETRY_BUDGET_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How one client reaches its server.

    Attributes:
        api_url: origin of the API, without a trailing slash.
        api_key: the bearer key, or ``None`` when none was found.
        timeout_seconds: how long an ordinary request may stay without an answer.
        retry_budget_seconds: how long a create may keep trying while the server has no capacity.
        preview_host: host (and port) that preview URLs hang under, or ``None`` to derive it from ``api_url``.
    """

    api_url: str
    api_key: str | None = field(repr=False)
    timeout_seconds: float = 30.0
    retry_budget_seconds: float = DEFAULT_RETRY_BUDGET_SECONDS
    preview_host: str | None = None

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this machine."""
        host = urlsplit(self.api_url).hostname or ""
        if host == "localhost" or host.endswith(".localhost"):
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    def url(self, path: str) -> str:
        """The full address of ``path``, under ``/v1`` whether or not the configured URL names it."""
        base = self.api_url if self.api_url.endswith("/v1") else f"{self.api_url}/v1"
        return base + path

    def preview_url(self, sandbox_id: str, port: int, scheme: str | None) -> str:
        """The address under which the gateway serves ``port`` of a sandbox.

        A server on this machine is reached through ``*.localhost``, which needs no DNS.
        """
        parts = urlsplit(self.api_url)
        host = self.preview_host or os.environ.get("PANDASTACK_PREVIEW_HOST", "").strip()
        if not host:
            name = "localhost" if self.is_loopback else (parts.hostname or "").removeprefix("api.")
            host = f"{name}:{parts.port}" if parts.port else name
        default_scheme = "http" if parts.scheme == "http" else "https"
        return f"{scheme or default_scheme}://{port}-{sandbox_id}.{host.lstrip('.')}"


def config_path() -> Path:
    """The file that ``pandastack auth login`` writes and every client reads."""
    return Path.home() / ".config" / "pandastack" / "config.json"


def read_config(path: Path | None = None) -> dict[str, Any]:
    """The config file's content; empty when there is none or it is not a JSON object."""
    try:
        content = json.loads((path or config_path()).read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):  # RuntimeError: no home directory
        return {}
    return content if isinstance(content, dict) else {}


def write_config(content: dict[str, Any], path: Path | None = None) -> Path:
    """Replace the config file by ``content``, readable by its owner only. Returns its path."""
    target = path or config_path()
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    staged = target.with_name(f".{target.name}.{os.getpid()}")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2)
            file.write("\n")
        staged.replace(target)
    finally:
        staged.unlink(missing_ok=True)
    return target


def resolve(
    *,
    api_url: str | None = None,
    base_url: str | None = None,
    api_base: str | None = None,
    api_key: str | None = None,
    token: str | None = None,
    timeout: float = 30.0,
    max_create_retry_seconds: float | None = None,
    preview_host: str | None = None,
) -> Settings:
    """Settle what a client uses, from all the spellings and places it may come from.

    Raises:
        ValueError: two spellings of one argument disagree, or a value is not usable.
        AuthError: the key cannot be sent as a header.
    """
    config = read_config()
    env = os.environ
    url = (
        _one_of("server URL", api_url=api_url, base_url=base_url, api_base=api_base)
        or env.get("PANDASTACK_API")
        or _text(config, "api_url", "apiUrl")
        or DEFAULT_API_URL
    )
    key = (
        _one_of("API key", api_key=api_key, token=token)
        or env.get("PANDASTACK_API_KEY")
        or env.get("PANDASTACK_TOKEN")
        or _text(config, "token", "api_key", "apiKey")
    )
    if not (math.isfinite(timeout) and timeout > 0):
        raise ValueError(f"timeout must be a positive number of seconds, not {timeout!r}")
    return Settings(
        api_url=_checked_url(url),
        api_key=_checked_key(key),
        timeout_seconds=timeout,
        retry_budget_seconds=_retry_budget(max_create_retry_seconds),
        preview_host=preview_host,
    )


def proxy_for(settings: Settings) -> str | None:
    """The proxy that the environment names for this server; never one for a server on this machine."""
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(settings.api_url)
    if settings.is_loopback or proxy_bypass(parts.hostname or ""):
        return None
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    return None if proxy is None else proxy if "://" in proxy else f"http://{proxy}"


def keepalive_options() -> list[tuple[int, int, int]]:
    """Socket options that notice a vanished peer within two minutes.

    A command may be silent for hours, so its request has no read timeout; the kernel's probes stand in.
    """
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options


SOCKET_OPTIONS: dict[str, Any] = {
    # What a program prints in one piece comes in one message, and the server bounds that.
    "max_size": None,
    "compression": None,
    # While a program takes no input the server reads nothing, not even pings, for up to a minute.
    "ping_timeout": 90,
}
"""How WebSockets are opened."""


def _one_of(what: str, **spellings: str | None) -> str | None:
    given = {name: value for name, value in spellings.items() if value}
    if len(set(given.values())) > 1:
        raise ValueError(f"{' and '.join(given)} name different values for the {what}; give one")
    return next(iter(given.values()), None)


def _text(config: dict[str, Any], *names: str) -> str | None:
    values = (config.get(name) for name in names)
    return next((value for value in values if isinstance(value, str) and value), None)


def _checked_url(url: str) -> str:
    url = url.strip().rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"the server URL must look like http://host:port, not {url!r}")
    return url


def _checked_key(key: str | None) -> str | None:
    key = key.strip() if key else ""
    if not key.isascii() or not all(character.isprintable() and character != " " for character in key):
        raise AuthError("the API key holds characters that no key has; was something else pasted with it?")
    return key or None


def _retry_budget(explicit: float | None) -> float:
    given: float | str | None = explicit
    if given is None:
        given = os.environ.get("PANDASTACK_MAX_CREATE_RETRY_SECONDS", "").strip() or None
    if given is None:
        return DEFAULT_RETRY_BUDGET_SECONDS
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(
            f"the create retry budget must be a number of seconds, 0 or more (0 disables it), not {given!r}"
        )
    return seconds
