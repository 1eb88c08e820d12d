"""How much environment a create or a command may set, by whatever route it comes."""

from __future__ import annotations

import re

from pandastackd.errors import InvalidRequest

MAX_ENV_CHARACTERS = 128 * 1024

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def check_env(env: dict[str, str]) -> None:
    """Refuse an environment that no process can have. Raises InvalidRequest."""
    for name, value in env.items():
        if not _ENV_NAME.fullmatch(name) or "\0" in value:
            raise InvalidRequest(f"env: {name!r} is not a variable's name, or its value holds NUL")
    if sum(len(name) + len(value) for name, value in env.items()) > MAX_ENV_CHARACTERS:
        raise InvalidRequest(f"env is too large: at most {MAX_ENV_CHARACTERS} characters in all")
