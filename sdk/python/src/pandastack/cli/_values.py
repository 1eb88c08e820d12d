"""What people type, as what the API takes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import typer

from pandastack._options import ProcessOptions

_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_REMOTE = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]*):(/.*)", re.DOTALL)


def seconds(text: str) -> float:
    """Seconds of a duration such as ``90``, ``10m`` or ``1h30m``."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise typer.BadParameter(f"{text!r} is not a duration; write 90, 45s, 10m, 1h30m or 2d")
    if len(parts) > 1 and any(not unit for _, unit in parts):
        raise typer.BadParameter(f"{text!r} is not a duration; give every number a unit")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def whole_seconds(text: str) -> int:
    """As ``seconds``, for a time to live."""
    value = seconds(text)
    if value < 1 or value != int(value):
        raise typer.BadParameter(f"{text!r} is not a whole number of seconds, 1 or more")
    return int(value)


def metadata(given: list[str] | None) -> dict[str, str] | None:
    """Labels of ``k=v`` texts; one text may hold several, parted by commas."""
    if not given:
        return None
    labels = {}
    for pair in (pair for text in given for pair in text.split(",")):
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"{pair!r} is not key=value")
        labels[key] = value
    return labels


def environment(given: list[str] | None) -> dict[str, str] | None:
    """Variables of ``NAME=value`` texts."""
    if not given:
        return None
    for text in given:
        if not re.match(r"[A-Za-z_][A-Za-z0-9_]*=", text):
            raise typer.BadParameter(f"{text!r} is not NAME=value")
    return dict(text.split("=", 1) for text in given)


def process(cwd: str | None, env: list[str] | None, user: str | None) -> ProcessOptions:
    """Where, with what and as whom something runs."""
    return {"cwd": cwd, "env": environment(env), "user": user}


def volumes(given: list[str] | None) -> list[dict[str, Any]] | None:
    """Volumes of ``name`` or ``name:ro`` texts; one text may hold several, parted by commas."""
    if not given:
        return None
    found = []
    for item in (item for text in given for item in text.split(",")):
        name, colon, mode = item.partition(":")
        if not name or (colon and mode not in {"ro", "rw"}):
            raise typer.BadParameter(f"{item!r} is not name, name:ro or name:rw")
        found.append({"name": name, "read_only": mode == "ro"})
    return found


def egress(
    no_internet: bool, allow_out: list[str] | None, deny_out: list[str] | None
) -> dict[str, Any] | None:
    """Where a sandbox may connect to; ``None`` when nothing was said about it."""
    if not (no_internet or allow_out or deny_out):
        return None
    return {"internet": not no_internet, "allow_out": allow_out or [], "deny_out": deny_out or []}


def yes_or_no(text: str) -> bool:
    """A ``true`` or ``false``."""
    known = {
        "true": True,
        "yes": True,
        "on": True,
        "1": True,
        "false": False,
        "no": False,
        "off": False,
        "0": False,
    }
    if text.lower() not in known:
        raise typer.BadParameter(f"{text!r} is neither true nor false")
    return known[text.lower()]


def either(positional: str | None, option: str | None, name: str) -> str:
    """A value that may be given in its place or, as in the npm command line, by an option."""
    if (positional is None) == (option is None):
        raise typer.BadParameter(f"give {name} once")
    return positional if positional is not None else option or ""


@dataclass(frozen=True)
class Remote:
    """A path in a sandbox."""

    sandbox_id: str
    path: str


def place(text: str) -> Remote | str:
    """Where ``cp`` copies from or to: ``<id>:/path`` in a sandbox, anything else on this machine."""
    match = _REMOTE.fullmatch(text)
    return Remote(match[1], match[2]) if match else text
