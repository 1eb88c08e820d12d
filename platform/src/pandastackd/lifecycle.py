"""The life of a sandbox, as one table: state → event → next state.

Two rules. A state changes only through :func:`advance`; an event with no arrow from the present state is an
:class:`~pandastackd.errors.IllegalTransition` that names both. The API, the control plane, the agent and the docs all
read this table; nothing else decides what may follow what.

Theory of operation: an *intent* (``PAUSE``, ``DELETE`` …) is an event a user or a timer causes; an *outcome*
(``STARTED``, ``DIED`` …) is one the host reports. ``FAILED`` is not the end: a failed sandbox can still be deleted, and
keeps its console until then. ``DELETED`` has no arrows out.
"""

from __future__ import annotations

from enum import StrEnum

from pandastackd.errors import IllegalTransition


class State(StrEnum):
    """What a sandbox is; the values are those of the published clients' contract."""

    CREATING = "creating"
    RUNNING = "running"
    PAUSED = "paused"
    HIBERNATED = "hibernated"
    STOPPING = "stopping"
    FAILED = "failed"
    DELETED = "deleted"


class Event(StrEnum):
    """What can happen to a sandbox."""

    STARTED = "started"
    PAUSE = "pause"
    RESUME = "resume"
    HIBERNATE = "hibernate"
    WAKE = "wake"
    ROLLBACK = "rollback"
    DIED = "died"
    DELETE = "delete"
    GONE = "gone"


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.CREATING: {
        Event.STARTED: State.RUNNING,
        Event.DIED: State.FAILED,
        Event.DELETE: State.STOPPING,
    },
    State.RUNNING: {
        Event.PAUSE: State.PAUSED,
        Event.HIBERNATE: State.HIBERNATED,
        Event.ROLLBACK: State.RUNNING,
        Event.DIED: State.FAILED,
        Event.DELETE: State.STOPPING,
    },
    State.PAUSED: {
        Event.RESUME: State.RUNNING,
        Event.HIBERNATE: State.HIBERNATED,
        Event.ROLLBACK: State.RUNNING,
        Event.DIED: State.FAILED,
        Event.DELETE: State.STOPPING,
    },
    State.HIBERNATED: {
        Event.WAKE: State.RUNNING,
        Event.ROLLBACK: State.RUNNING,
        Event.DIED: State.FAILED,
        Event.DELETE: State.STOPPING,
    },
    State.FAILED: {
        Event.ROLLBACK: State.RUNNING,
        Event.DELETE: State.STOPPING,
    },
    State.STOPPING: {
        Event.GONE: State.DELETED,
        Event.DELETE: State.STOPPING,
        Event.DIED: State.STOPPING,
    },
    State.DELETED: {},
}

ALIVE = frozenset({State.CREATING, State.RUNNING, State.PAUSED, State.STOPPING})
"""States in which a VMM process may exist and host memory is held."""


def advance(state: State, event: Event, *, sandbox_id: str = "") -> State:
    """The state that follows ``state`` when ``event`` happens.

    Raises:
        IllegalTransition: the table has no such arrow; the message names the event, the state and what would do.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        possible = ", ".join(sorted(TRANSITIONS[state])) or "nothing"
        who = f"sandbox {sandbox_id}" if sandbox_id else "the sandbox"
        raise IllegalTransition(
            f"cannot {event} {who}: it is {state}; from there only {possible} is possible"
        ) from None
