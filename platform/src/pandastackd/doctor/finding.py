"""One thing the doctor looked at: what it is, what that means, how to mend it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum


class Status(StrEnum):
    """How bad it is: ``warn`` works with a limit that is named, ``fail`` does not work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check.

    Attributes:
        name: short stable name of the check, for programs.
        status: how bad it is.
        meaning: what was found and what follows from it.
        remedy: what to do about it; empty when there is nothing to do.
    """

    name: str
    status: Status
    meaning: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """The finding as JSON has it."""
        return {**asdict(self), "status": self.status.value}


def ok(name: str, meaning: str) -> Finding:
    """All is well."""
    return Finding(name, Status.OK, meaning)


def warn(name: str, meaning: str, remedy: str) -> Finding:
    """It works, with a limit."""
    return Finding(name, Status.WARN, meaning, remedy)


def fail(name: str, meaning: str, remedy: str) -> Finding:
    """It does not work."""
    return Finding(name, Status.FAIL, meaning, remedy)
