"""Every error the SDK raises, as one tree. In brackets: what the published 0.10.0 client would raise.

PandastackError                  status_code, code, request_id, retryable
├── AuthError                401  no key, or a key that is unknown, revoked or expired
├── NotFoundError            404  not there, or not yours
├── BadRequestError          4xx  the request says something that cannot be honoured
│   ├── ForbiddenError       403  the key is known and not allowed to do this   [BadRequestError]
│   ├── ConflictError        409  not in this state                             [BadRequestError]
│   ├── TooLargeError        413                                                [BadRequestError]
│   └── RateLimitError       429  too many requests, or a quota is used up      [BadRequestError]
├── ServerError              5xx  the platform, the host or the guest broke
│   ├── NotBuiltError        501  the server does not have this capability      [ServerError]
│   └── CapacityError    503 507  no host can take this now                     [ServerError]
├── ConnectionError               no answer: refused, reset, cut short; sent (also APIConnectionError)
│   └── RequestTimeout            no answer in time                             [ConnectionError]
├── SandboxTimeout                a command or cell ran out of its time and was killed
├── ExecInterrupted               an output stream ended without an exit code; partial_stdout, partial_stderr
├── CommandFailed                 non-zero exit under check=True; exit_code, stdout, stderr
├── ForkIncomplete                fewer children than asked for; children, failures
├── CreateCancelled               the caller's cancel event was set
├── TemplateBuildError            a template build failed; build
└── ExploreError                  an experiment could not run or no branch was viable
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class PandastackError(Exception):
    """Base of every error of this SDK.

    Attributes:
        message: one line for people.
        status_code: the HTTP status, or ``None`` when no answer was received.
        code: the server's stable word for programs, or ``None``.
        request_id: what the server's log calls this request, or ``None``.
        retryable: whether the server said that trying again can help; ``None`` when it did not say.
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status_code = status_code
        self.code = code
        self.request_id = request_id
        self.retryable = retryable


class AuthError(PandastackError):
    """No API key was found, or the server does not accept the one that was sent."""


class NotFoundError(PandastackError):
    """The thing does not exist, or belongs to somebody else."""


class BadRequestError(PandastackError):
    """The server refuses the request as it stands."""


class ForbiddenError(BadRequestError):
    """The key is valid and not allowed to do this."""


class ConflictError(BadRequestError):
    """The thing is not in a state that allows this."""


class TooLargeError(BadRequestError):
    """The body is larger than the server takes."""


class RateLimitError(BadRequestError):
    """Too many requests, or a quota is used up."""


class ServerError(PandastackError):
    """The platform, the host or the guest broke."""


class NotBuiltError(ServerError):
    """This server does not have the capability that was asked for."""


class CapacityError(ServerError):
    """No host can take the sandbox now, and waiting within the retry budget did not help."""


class ConnectionError(PandastackError):  # noqa: A001 - the published client's name; users import it by that name
    """The server could not be reached, or the connection broke before the answer was complete.

    Attributes:
        sent: whether the request may have reached the server, so that what it asks for may have happened.
    """

    def __init__(self, message: str, *, sent: bool = True, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.sent = sent


APIConnectionError = ConnectionError
"""The same class under the name that does not shadow the built-in."""


class RequestTimeout(ConnectionError):
    """The server did not answer in time. What it was asked to do may still happen."""


class SandboxTimeout(PandastackError):
    """A command or code cell ran out of its time; it was killed with all its children.

    Attributes:
        stdout: what it had printed, where the server tells.
        stderr: as ``stdout``.
    """

    def __init__(self, message: str, *, stdout: str = "", stderr: str = "", **facts: Any) -> None:
        super().__init__(message, **facts)
        self.stdout = stdout
        self.stderr = stderr


class ExecInterrupted(PandastackError):
    """An output stream ended before it told an exit code, so the command's fate is unknown.

    Attributes:
        partial_stdout: what arrived before the break.
        partial_stderr: as ``partial_stdout``.
    """

    def __init__(
        self, message: str, *, partial_stdout: str = "", partial_stderr: str = "", **facts: Any
    ) -> None:
        super().__init__(message, **facts)
        self.partial_stdout = partial_stdout
        self.partial_stderr = partial_stderr


class CommandFailed(PandastackError):
    """A command that was run with ``check=True`` exited with a non-zero code.

    Attributes:
        exit_code: what it exited with.
        stdout: all it printed.
        stderr: as ``stdout``.
    """

    def __init__(
        self, message: str, *, exit_code: int, stdout: str = "", stderr: str = "", **facts: Any
    ) -> None:
        super().__init__(message, **facts)
        self.exit_code = exit_code
        self.stdout = stdout
        self.stderr = stderr


class ForkIncomplete(PandastackError):
    """Some children of a fork could not be made. Those that were made live on; use them or kill them.

    Attributes:
        children: the sandboxes that were made.
        failures: why the others were not, by child.
    """

    def __init__(
        self,
        message: str,
        *,
        children: Sequence[Any],
        failures: Mapping[str, str] | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(message, **facts)
        self.children = list(children)
        self.failures = dict(failures or {})


class CreateCancelled(PandastackError):
    """The ``cancel`` event of a create or fork was set; the last refusal, if any, is the ``__cause__``."""


class TemplateBuildError(PandastackError):
    """A template build failed or ran out of time.

    Attributes:
        build: the build as it was last seen.
    """

    def __init__(self, message: str, *, build: object | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.build = build


class ExploreError(PandastackError):
    """An experiment could not run, or none of its branches was viable."""
