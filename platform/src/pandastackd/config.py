"""Settings of the platform: defaults, overridden by ``PANDASTACK_*`` environment variables, then by command-line
flags.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, StringConstraints
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Origin = Annotated[str, StringConstraints(pattern=r"^https?://[a-z0-9.-]+(:[0-9]{1,5})?$")]


def _listed(value: object) -> object:
    """Text with commas as a list."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class Settings(BaseSettings):
    """Everything an operator may set. Every field has a default that works on one machine with no configuration."""

    model_config = SettingsConfigDict(env_prefix="PANDASTACK_", extra="ignore")

    data_dir: Path = Path("/var/lib/pandastack")
    """Where everything lives; see ``disk.layout`` for what is where."""

    cache_dir: Path = Path("/var/cache/pandastack")
    """Downloads, guest kernels and built root file systems, by digest. Shared by all data directories; may be
    deleted.
    """

    database_url: str | None = None
    """SQLAlchemy URL. Default: SQLite in the data directory. PostgreSQL for a fleet: ``postgresql+asyncpg://…``."""

    listen: str = "127.0.0.1:8080"
    """Address and port of the HTTP API."""

    domain: str | None = Field(default=None, pattern=r"^[A-Za-z0-9.-]+(:[0-9]+)?$")
    """What follows ``{port}-{sandbox id}.`` in the host names that reach sandboxes from outside, if a wildcard
    DNS entry leads here. E2B's clients are told it; the gateway itself serves any domain."""

    templates_dir: Path | None = None
    """Folder of template recipes. Default: ``templates/`` of the checkout."""

    network: ipaddress.IPv4Network = ipaddress.IPv4Network("10.213.0.0/16")
    """The /16 that is cut into 16,384 /30 subnets, one a slot. Change it if your own network uses this range."""

    slots_ready: int = Field(default=4, ge=0, le=256)
    """How many network slots are kept prepared ahead of use."""

    uid_base: int = Field(default=1_900_000_000, ge=100_000, le=2_147_400_000)
    """First of the 16,384 user ids that VMM processes run as: base + slot number."""

    dns_servers: list[ipaddress.IPv4Address] = []
    """Where guests' DNS queries are sent. Default: the host's own non-loopback resolvers."""

    openable_networks: list[ipaddress.IPv4Network] = []
    """Private ranges that a sandbox may reach if its own network policy allows it by name, such as an internal package
    mirror. All other private ranges are closed to every sandbox. The host itself stays closed in any case."""

    metrics_seconds: float = Field(default=15, ge=0)
    """How often running guests are asked what they use, for the history that the API shows; 0 is never."""

    cors_origins: Annotated[list[Origin], NoDecode, BeforeValidator(_listed)] = []
    """Origins of the web pages that may call the API from a browser, such as ``https://app.example.org``, with commas
    between. None by default; each is named in full, never by a ``*``."""

    memory_overcommit: float = Field(default=4.0, gt=0, le=16)
    """How many times the host's memory may be promised to guests. Guests of one snapshot share all they have not
    written, so 4 is seldom used up; 1 promises nothing that there is not. What is free at the moment is checked too."""

    memory_reserve_mib: int = Field(default=1024, ge=0)
    """Host memory never promised to guests."""

    disk_reserve_mib: int = Field(default=2048, ge=0)
    """Free space on the data disk that no create may eat into."""

    data_image_gib: int = Field(default=64, ge=4)
    """Largest size of the sparse XFS image that is made when the data directory's file system cannot reflink."""

    default_ttl_seconds: int = Field(default=3600, ge=1)
    max_ttl_seconds: int = Field(default=30 * 24 * 3600, ge=1)

    hibernated_retention_seconds: int = Field(default=30 * 24 * 3600, ge=1)
    """How long a sandbox that was created with ``on_timeout: hibernate`` is kept hibernated before it is deleted."""

    mcp_calls_per_minute: int = Field(default=600, ge=1)
    """How often a workspace may call MCP tools, on average; up to 60 calls may come at once."""

    accelerator: str = Field(default="auto", pattern="^(auto|kvm|tcg)$")
    """``auto`` asks the probe whether a guest really runs at hardware speed; the others force it."""

    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")
    log_format: str = Field(default="console", pattern="^(console|json)$")
