"""Runs inside a virtual environment with matplotlib and E2B's client: each chart of ours, read by that client.

Takes the folder of what is loaded into Python kernels.
"""

# mypy: ignore-errors
# (its imports exist only in that environment)

from __future__ import annotations

import datetime
import json
import sys

sys.path.insert(0, sys.argv[1])
import pandastack_charts
import pandastack_tables

pandastack_charts.remember_boxes()
import matplotlib as mpl  # noqa: E402

mpl.use("agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from capability import run  # noqa: E402
from e2b_code_interpreter.charts import _deserialize_chart  # noqa: E402


def chart(figure=None):
    """What the current figure shows, as the client understands it after a way through JSON."""
    figure = figure or plt.gcf()
    data = pandastack_charts.chart(figure)
    plt.close(figure)
    return data and _deserialize_chart(json.loads(json.dumps(data, allow_nan=False)))


def line():
    plt.plot([1, 2, 3], [4, 5, 6], label="a")
    plt.plot([1, 2], [np.nan, 2])
    plt.axhline(3)
    plt.title("T")
    plt.xlabel("time (s)")
    found = chart()
    assert (found.type.value, found.title, found.x_label, found.x_unit, found.y_label) == (
        *("line", "T", "time (s)", "s"),
        None,
    )
    assert [each.label for each in found.elements] == ["a", "Line 2"]
    assert found.elements[0].points == [(1, 4), (2, 5), (3, 6)]
    assert found.elements[1].points == [(1, None), (2, 2)]
    assert len(found.x_ticks) == len(found.x_tick_labels)


def scales():
    plt.plot(["a", "b"], [1, 100])
    plt.yscale("log")
    found = chart()
    assert (found.x_scale.value, found.y_scale.value) == ("categorical", "log")
    assert found.elements[0].points == [("a", 1), ("b", 100)]
    plt.plot([datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)], [1, 2])
    found = chart()
    assert found.x_scale.value == "datetime"
    assert found.elements[0].points[1] == ("2020-01-02T00:00:00", 2)


def scatter():
    plt.scatter([1, 2], [3, 4], label="s")
    plt.plot([1], [2], "o")
    found = chart()
    assert found.type.value == "scatter"
    assert sorted((each.label, each.points) for each in found.elements) == [
        ("Scatter 1", [(1, 2)]),
        ("s", [(1, 3), (2, 4)]),
    ]


def bars():
    plt.bar(["a", "b"], [1, 2.5], yerr=[0.1, 0.1])
    found = chart()
    assert found.type.value == "bar"
    assert [(bar.label, bar.value, bar.group) for bar in found.elements] == [("a", 1, ""), ("b", 2.5, "")]
    plt.barh(["a", "b"], [1, 2], label="g")
    plt.xlabel("height (m)")
    found = chart()
    assert (found.x_label, found.y_unit) == (None, "m")
    assert [(bar.label, bar.value, bar.group) for bar in found.elements] == [("a", 1, "g"), ("b", 2, "g")]
    places = np.arange(2)
    plt.bar(places - 0.2, [1, 2], 0.4, label="old")
    plt.bar(places + 0.2, [3, 4], 0.4, label="new")
    plt.xticks(places, ["u", "w"])
    assert [(bar.label, bar.group) for bar in chart().elements] == [
        *(("u", "old"), ("w", "old"), ("u", "new"), ("w", "new")),
    ]
    plt.hist([1, 1, 2, 3], bins=2)
    assert [(bar.label, bar.value) for bar in chart().elements] == [("1.5", 2), ("2.5", 2)]


def pie():
    plt.pie([1, 3], labels=["a", "b"])
    found = chart()
    assert found.type.value == "pie"
    assert [(part.label, part.angle, part.radius) for part in found.elements] == [("a", 90, 1), ("b", 270, 1)]


def boxes():
    plt.boxplot([[1, 2, 3, 4, 30], [2, 2, 2]])
    plt.xticks([1, 2], ["A", "B"])
    found = chart()
    assert found.type.value == "box_and_whisker"
    first = found.elements[0]
    assert (first.label, first.min, first.first_quartile, first.median, first.third_quartile, first.max) == (
        *("A", 1, 2, 3, 4, 4),
    )
    assert (first.outliers, found.elements[1].label) == ([30], "B")


def several():
    figure, (left, right) = plt.subplots(1, 2)
    left.plot([1, 2])
    right.scatter([1], [2])
    right.plot([1, 2])
    figure.colorbar(right.collections[0])
    figure.suptitle("S")
    found = chart(figure)
    assert (found.type.value, found.title) == ("superchart", "S")
    assert [each.type.value for each in found.elements] == ["line", "line", "scatter"]


def nothing():
    plt.imshow([[1, 2]])
    assert chart() is None
    plt.plot(np.zeros(30_000))
    assert chart() is None


def tables():
    frame = pd.DataFrame(
        {
            "f": [1.5, np.nan, np.inf],
            "d": pd.to_datetime(["2020-01-02 00:00", None, "2020-01-03 04:05"]),
            "i": pd.array([1, None, 3], dtype="Int64"),
            "s": ["x", None, "ü"],
            "o": [[1], {"a": 1}, datetime.timedelta(seconds=1)],
        }
    )
    data = json.loads(json.dumps(pandastack_tables.columns(frame), allow_nan=False))
    assert data == {
        "f": [1.5, None, None],
        "d": ["2020-01-02T00:00:00", None, "2020-01-03T04:05:00"],
        "i": [1, None, 3],
        "s": ["x", None, "ü"],
        "o": ["[1]", "{'a': 1}", data["o"][2]],
    }
    assert pandastack_tables.columns(pd.DataFrame(np.zeros((1000, 101)))) is None


if __name__ == "__main__":
    run((line, scales, scatter, bars, pie, boxes, several, nothing, tables))
