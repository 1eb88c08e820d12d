"""Charts as data: what a matplotlib figure shows, for clients that draw it in their own way.

Each axes gives one chart for each kind of thing in it: lines, points, bars, a pie, boxes. A figure with one chart
is that chart; one with several is a ``superchart`` of them. Field names are those of E2B's clients. In bar and box
charts x is always the axis of the categories, whichever way the figure lies.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pandastack_tables import plain

MOST_POINTS = 20_000
"""A figure with more is not sent as data: thinned data would be wrong data."""

Chart = dict[str, Any]

_UNIT = re.compile(r"[(\[]([^()\[\]]+)[)\]]\s*$")
_BOXES = "_pandastack_boxes"


def chart(figure: Any) -> Chart | None:
    """What a figure shows; None when that is nothing we know, or too much."""
    charts = [one for axes in figure.axes if axes.get_label() != "<colorbar>" for one in _charts(axes)]
    if not charts or sum(map(_size, charts)) > MOST_POINTS:
        return None
    title = figure.get_suptitle()
    if len(charts) > 1:
        return {"type": "superchart", "title": title, "elements": charts}
    return {**charts[0], "title": charts[0]["title"] or title}


def remember_boxes() -> None:
    """From when matplotlib is imported, box plots leave their numbers with their axes.

    A drawn box is a handful of lines from which its numbers cannot be told with certainty.
    """
    if (loaded := sys.modules.get(_Watcher.MODULE)) is not None:
        _watch_boxes(loaded)
    elif not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())


class _Watcher(importlib.abc.MetaPathFinder):
    """Changes one module at the end of its import, and then goes away."""

    MODULE = "matplotlib.axes._axes"

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> Any:
        if fullname != self.MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_change(module: Any) -> None:
            run(module)
            _watch_boxes(module)

        spec.loader.exec_module = run_and_change  # type: ignore[method-assign]
        return spec


@dataclass
class _Boxes:
    """The boxes of one call."""

    stats: list[dict[str, Any]]
    positions: list[float]
    upright: bool
    artists: set[int]


def _watch_boxes(module: Any) -> None:
    draw = module.Axes.bxp
    if hasattr(draw, "watched"):
        return

    def bxp(axes: Any, bxpstats: Any, *args: Any, **options: Any) -> Any:
        stats = list(bxpstats)
        artists = draw(axes, stats, *args, **options)
        flat = options.get("orientation") == "horizontal" or options.get("vert") is False
        positions = options.get("positions")
        places = [*range(1, len(stats) + 1)] if positions is None else [float(place) for place in positions]
        drawn = {id(artist) for group in artists.values() for artist in group}
        vars(axes).setdefault(_BOXES, []).append(_Boxes(stats, places, not flat, drawn))
        return artists

    bxp.__doc__, bxp.__name__, bxp.watched = draw.__doc__, draw.__name__, True  # type: ignore[attr-defined]
    module.Axes.bxp = bxp


def _charts(axes: Any) -> Iterator[Chart]:
    for make in (_bars, _boxes, _pie, _lines, _points):
        if (one := make(axes)) is not None:
            yield one


def _size(one: Chart) -> int:
    return sum(len(element.get("points", element.get("outliers", ()))) + 1 for element in one["elements"])


def _lines(axes: Any) -> Chart | None:
    return _point_chart(axes, "line", [line for line in _data_lines(axes) if line.get_linestyle() != "None"])


def _points(axes: Any) -> Chart | None:
    collections = [found for found in axes.collections if type(found).__name__ == "PathCollection"]
    marks = [line for line in _data_lines(axes) if line.get_linestyle() == "None"]
    return _point_chart(axes, "scatter", [*marks, *collections])


def _data_lines(axes: Any) -> list[Any]:
    """The lines that stand for data: no helper lines across the axes, no parts of boxes or of error bars."""
    parts = {part for boxes in getattr(axes, _BOXES, ()) for part in boxes.artists}
    for container in axes.containers:
        if type(container).__name__ == "ErrorbarContainer":
            parts |= {id(cap) for cap in container[1]}
    return [line for line in axes.lines if id(line) not in parts and line.get_transform() == axes.transData]


def _point_chart(axes: Any, kind: str, artists: list[Any]) -> Chart | None:
    if not artists:
        return None
    x_name, y_name = _names(axes.xaxis), _names(axes.yaxis)
    elements = []
    for number, artist in enumerate(artists, start=1):
        label = str(artist.get_label())
        pairs = artist.get_offsets() if hasattr(artist, "get_offsets") else artist.get_xydata()
        elements.append(
            {
                "label": f"{kind.capitalize()} {number}" if label.startswith("_") or not label else label,
                "points": [[x_name(x), y_name(y)] for x, y in pairs.tolist()],
            }
        )
    return {
        **_frame(axes, kind),
        **_ticks("x", axes.xaxis, x_name),
        **_ticks("y", axes.yaxis, y_name),
        "elements": elements,
    }


def _bars(axes: Any) -> Chart | None:
    elements, upright = [], True
    for container in axes.containers:
        if type(container).__name__ != "BarContainer" or not container.patches:
            continue
        upright = container.orientation != "horizontal"
        name = _categories(axes.xaxis if upright else axes.yaxis)
        group = str(container.get_label())
        for bar in container.patches:
            middle = bar.get_x() + bar.get_width() / 2 if upright else bar.get_y() + bar.get_height() / 2
            elements.append(
                {
                    "label": name(middle),
                    "value": plain(bar.get_height() if upright else bar.get_width()),
                    "group": "" if group.startswith("_") else group,
                }
            )
    return {**_frame(axes, "bar", upright=upright), "elements": elements} if elements else None


def _boxes(axes: Any) -> Chart | None:
    elements, upright = [], True
    for boxes in getattr(axes, _BOXES, ()):
        upright = boxes.upright
        name = _categories(axes.xaxis if upright else axes.yaxis)
        for stats, position in zip(boxes.stats, boxes.positions, strict=False):
            elements.append(
                {
                    "label": str(stats.get("label") or name(position)),
                    "min": plain(stats["whislo"]),
                    "first_quartile": plain(stats["q1"]),
                    "median": plain(stats["med"]),
                    "third_quartile": plain(stats["q3"]),
                    "max": plain(stats["whishi"]),
                    "outliers": [plain(value) for value in stats.get("fliers", ())],
                }
            )
    return {**_frame(axes, "box_and_whisker", upright=upright), "elements": elements} if elements else None


def _pie(axes: Any) -> Chart | None:
    wedges = [patch for patch in axes.patches if type(patch).__name__ == "Wedge"]
    if not wedges:
        return None
    elements = [
        {
            "label": "" if str(wedge.get_label()).startswith("_") else str(wedge.get_label()),
            "angle": plain(abs(wedge.theta2 - wedge.theta1)),
            "radius": plain(wedge.r),
        }
        for wedge in wedges
    ]
    return {"type": "pie", "title": axes.get_title(), "elements": elements}


def _frame(axes: Any, kind: str, *, upright: bool = True) -> Chart:
    x, y = axes.get_xlabel(), axes.get_ylabel()
    if not upright:
        x, y = y, x
    return {
        "type": kind,
        "title": axes.get_title(),
        "x_label": x or None,
        "y_label": y or None,
        "x_unit": _unit(x),
        "y_unit": _unit(y),
    }


def _unit(label: str) -> str | None:
    """``Speed (km/h)`` is in ``km/h``."""
    found = _UNIT.search(label)
    return found[1].strip() if found else None


def _ticks(prefix: str, axis: Any, name: Callable[[float], Any]) -> Chart:
    converter = type(axis.get_converter()).__name__
    scale = (
        "categorical" if "Category" in converter else "datetime" if "Date" in converter else axis.get_scale()
    )
    return {
        f"{prefix}_ticks": [name(place) for place in axis.get_ticklocs()],
        f"{prefix}_tick_labels": [label.get_text() for label in axis.get_ticklabels()],
        f"{prefix}_scale": scale,
    }


def _names(axis: Any) -> Callable[[float], Any]:
    """What a place on an axis means: a category, a date, or the number that it is."""
    converter = type(axis.get_converter()).__name__
    if "Category" in converter:
        by_place = {place: text for text, place in axis.units._mapping.items()}
        return lambda place: by_place.get(round(place), plain(place))
    if "Date" in converter:
        from matplotlib.dates import num2date

        return lambda place: num2date(place).replace(tzinfo=None).isoformat()
    return plain


def _categories(axis: Any) -> Callable[[float], str]:
    """What the category at a place is called: as the axis says, or the nearest tick that was given a label."""
    name = _names(axis)
    if type(axis.get_major_locator()).__name__ != "FixedLocator":
        return lambda place: _short(name(place))
    ticks = list(
        zip(axis.get_ticklocs().tolist(), (tick.get_text() for tick in axis.get_ticklabels()), strict=False)
    )

    def nearest(place: float) -> str:
        tick, label = min(ticks, key=lambda tick: abs(tick[0] - place), default=(place, ""))
        return label if label and abs(tick - place) <= 0.5 else _short(name(place))

    return nearest


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
