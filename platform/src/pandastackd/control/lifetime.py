"""How long a sandbox lives: what its time counts from, and what begins it again. The one table of it.

Sandboxes of our own API live for as long as somebody uses them. Those of E2B's live to an end that was said when they
were created, or said anew later, whatever the use.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from pandastackd.config import Settings
from pandastackd.errors import InvalidRequest
from pandastackd.lifecycle import State
from pandastackd.store import SandboxRow
from pandastackd.store.sandboxes import FROM_USE, HIBERNATE, expiry


class TtlFrom(StrEnum):
    """What a sandbox's time to live counts from."""

    USE = FROM_USE
    SET = "set"


@dataclass(frozen=True, slots=True)
class Counting:
    """What begins a time to live again.

    Attributes:
        after: the states that a move out of begins it again. Use is the store's business, with the same column.
        asleep: whether it runs on while the sandbox is hibernated.
    """

    after: frozenset[State]
    asleep: bool


COUNTING: Final = {
    TtlFrom.USE: Counting(after=frozenset(State), asleep=True),
    TtlFrom.SET: Counting(after=frozenset({State.CREATING, State.HIBERNATED}), asleep=False),
}


def end_when_set(
    row: SandboxRow, ttl_from: TtlFrom, ttl_seconds: int, persistent: bool, now: datetime, settings: Settings
) -> datetime | None:
    """When a sandbox whose time is set now ends, or hibernates, by itself; ``None``: it does not."""
    return _end(State(row.state), row.on_timeout, ttl_from, ttl_seconds, persistent, now, settings)


def end_after_move(row: SandboxRow, state: State, now: datetime, settings: Settings) -> datetime | None:
    """When a sandbox that is in ``state`` from now on ends, or hibernates, by itself; ``None``: it does not."""
    ttl_from = TtlFrom(row.ttl_from)
    if state is not State.HIBERNATED and State(row.state) not in COUNTING[ttl_from].after:
        return row.expires_at
    return _end(state, row.on_timeout, ttl_from, row.ttl_seconds, row.persistent, now, settings)


def checked_ttl(asked: int | None, settings: Settings) -> int:
    """The time to live in seconds, the default when none is asked for.

    Raises:
        InvalidRequest: it is below 1 or above the platform's maximum.
    """
    if asked is None:
        return min(settings.default_ttl_seconds, settings.max_ttl_seconds)
    if asked < 1:
        raise InvalidRequest(f"ttl_seconds must be 1 or more, not {asked}", code="invalid_ttl")
    if asked > settings.max_ttl_seconds:
        raise InvalidRequest(
            f"ttl_seconds exceeds tier maximum: {asked} asked, {settings.max_ttl_seconds} allowed",
            code="ttl_exceeds_maximum",
        )
    return asked


def _end(
    state: State,
    on_timeout: str,
    ttl_from: TtlFrom,
    ttl_seconds: int,
    persistent: bool,
    now: datetime,
    settings: Settings,
) -> datetime | None:
    # One that wants to be hibernated at its end has reached it, however its time counts.
    if state is State.HIBERNATED and (on_timeout == HIBERNATE or not COUNTING[ttl_from].asleep):
        ttl_seconds = settings.hibernated_retention_seconds
    return expiry(persistent, ttl_seconds, now)
