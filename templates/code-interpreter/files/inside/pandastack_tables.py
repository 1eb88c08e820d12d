"""Data frames as data: column by column, in what JSON can say."""

from __future__ import annotations

import datetime
import math
from typing import Any

MOST_VALUES = 100_000
"""A larger table is not sent as data: cut data would be wrong data."""


def columns(frame: Any) -> dict[str, list[Any]] | None:
    """The columns of a frame by name, from top to bottom; None for a frame that is too large."""
    if frame.size > MOST_VALUES:
        return None
    # By position: names need not be unique.
    return {
        str(name): [plain(value) for value in frame.iloc[:, position].tolist()]
        for position, name in enumerate(frame.columns)
    }


def plain(value: Any) -> Any:
    """A value as JSON can say it: dates in ISO 8601, what is missing or no number as None, the rest as text."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, datetime.date | datetime.time):
        # pandas' NaT is a date of sorts that no calendar has.
        return value.isoformat() if value == value else None
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return plain(value.item())
    text = str(value)
    return None if text in {"<NA>", "NaT"} else text
