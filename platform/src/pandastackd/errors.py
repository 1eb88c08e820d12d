"""Every error a user can cause or must act on, as one tree.

    PlatformError(code, http_status)
    ├── InvalidRequest          400  the request says something we cannot honour; names the field
    ├── Unauthenticated         401  no key, or a key that is unknown, revoked or expired
    ├── Forbidden               403  the key is known and not allowed to do this
    ├── NotFound                404  not there, or not yours: the same answer on purpose
    ├── Conflict                409  not in this state; names the state
    │   └── IllegalTransition   409  the life cycle's table has no such arrow
    ├── TooLarge                413
    ├── RateLimited             429
    ├── NotBuilt                501  a published route of a capability that this version does not have
    ├── HostFailure             500  the host, the VMM or the guest broke; carries what is known of why
    │   ├── VmmFailed           500  the VMM process died or refused; carries its last console lines
    │   └── GuestUnreachable    502  the guest agent did not answer in time
    ├── NoCapacity              503  no host can take this now; try again
    ├── CommandTimeout          504  a command ran out of its time and was killed, with all its children
    └── InsufficientStorage     507  memory or disk short; says how much would be needed

One line each: what happened, what it means, what to do. ``code`` is stable and for programs.
"""

from __future__ import annotations


class PlatformError(Exception):
    """Base of every error that may reach a user.

    Attributes:
        message: one line for people.
        code: stable snake_case word for programs.
        http_status: the status the API answers with.
        retry_after_seconds: set where trying again later helps.
    """

    code = "internal"
    http_status = 500

    def __init__(
        self, message: str, *, code: str | None = None, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        self.retry_after_seconds = retry_after_seconds


class InvalidRequest(PlatformError):
    code, http_status = "invalid_request", 400


class Unauthenticated(PlatformError):
    code, http_status = "unauthenticated", 401


class Forbidden(PlatformError):
    code, http_status = "forbidden", 403


class NotFound(PlatformError):
    code, http_status = "not_found", 404


class Conflict(PlatformError):
    code, http_status = "conflict", 409


class IllegalTransition(Conflict):
    code = "illegal_transition"


class TooLarge(PlatformError):
    code, http_status = "too_large", 413


class RateLimited(PlatformError):
    code, http_status = "rate_limited", 429


class NotBuilt(PlatformError):
    code, http_status = "not_built", 501


class HostFailure(PlatformError):
    code, http_status = "host_failure", 500


class VmmFailed(HostFailure):
    """The VMM process died or refused a command.

    Attributes:
        console_tail: the last lines of the guest's serial console, for the person who has to find out why.
    """

    code = "vmm_failed"

    def __init__(self, message: str, *, console_tail: str = "", code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.console_tail = console_tail


class GuestUnreachable(HostFailure):
    code, http_status = "guest_unreachable", 502


class NoCapacity(PlatformError):
    code, http_status = "no_capacity", 503


class CommandTimeout(PlatformError):
    code, http_status = "command_timeout", 504


class InsufficientStorage(PlatformError):
    code, http_status = "insufficient_storage", 507
