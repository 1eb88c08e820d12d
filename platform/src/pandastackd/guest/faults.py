"""From what a guest or its connection did wrong to the platform's errors.

Three kinds, kept apart: the guest *refused* (its own code decides), the guest *talked nonsense*
(:class:`~pandastackd.errors.HostFailure` with code ``guest_protocol``), the guest *was not there*
(:class:`~pandastackd.errors.GuestUnreachable`). Text from a guest is shown to people, so it is cut and
cleaned.

None of them is :class:`~pandastackd.errors.Unauthenticated`: the caller's key is not the guest's to judge.
"""

from __future__ import annotations

from pandastackd.errors import (
    CommandTimeout,
    Conflict,
    Forbidden,
    GuestUnreachable,
    HostFailure,
    InsufficientStorage,
    InvalidRequest,
    NotBuilt,
    NotFound,
    PlatformError,
    RateLimited,
    TooLarge,
)

MAX_MESSAGE = 500

_BY_CODE: dict[str, type[PlatformError]] = {
    "already_exists": Conflict,
    "aborted": Conflict,
    "canceled": Conflict,
    "deadline_exceeded": CommandTimeout,
    "failed_precondition": Conflict,
    "invalid_argument": InvalidRequest,
    "not_found": NotFound,
    "out_of_range": InvalidRequest,
    "permission_denied": Forbidden,
    "resource_exhausted": RateLimited,
    # A user's name stands in the place of credentials: it is a user that the guest does not have.
    "unauthenticated": InvalidRequest,
    "unavailable": GuestUnreachable,
    "unimplemented": NotBuilt,
}

_BY_STATUS: dict[int, type[PlatformError]] = {
    400: InvalidRequest,
    403: Forbidden,
    404: NotFound,
    408: CommandTimeout,
    409: Conflict,
    412: Conflict,
    413: TooLarge,
    429: RateLimited,
    501: NotBuilt,
    503: GuestUnreachable,
    504: CommandTimeout,
    507: InsufficientStorage,
}


def clean(text: str) -> str:
    """``text`` as one bounded line without control characters, fit for a log and for people."""
    line = "".join(char if char.isprintable() else " " for char in text[: MAX_MESSAGE * 2])
    return " ".join(line.split())[:MAX_MESSAGE]


def refused(what: str, *, status: int = 500, code: str | None = None, message: str = "") -> PlatformError:
    """The error for a guest that said no to ``what``, by Connect code if it gave one, else by HTTP status."""
    # A full disk wins over the code: Connect has no word of its own for it.
    kind = _BY_STATUS[507] if status == 507 else _BY_CODE.get(code or "") or _BY_STATUS.get(status)
    detail = clean(message) or f"the guest answered {status}"
    return (kind or HostFailure)(f"cannot {what}: {detail}")


def nonsense(what: str) -> HostFailure:
    """The error for an answer that breaks the protocol; the guest's software is damaged or hostile."""
    return HostFailure(
        f"the guest broke its protocol: {clean(what)}; "
        "the answer was dropped, delete the sandbox if it repeats",
        code="guest_protocol",
    )


def unreachable(why: str) -> GuestUnreachable:
    """The error for a guest that cannot be reached or fell silent."""
    return GuestUnreachable(
        f"the guest agent did not answer: {clean(why)}; see the sandbox's console, or delete it"
    )
