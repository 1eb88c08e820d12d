"""Loaded into each Python kernel: tables and charts as data, and what the server needs done from within."""

from __future__ import annotations

import json
import os
import random
import ssl
import sys
from typing import Any

import pandastack_charts
import pandastack_tables


def install(shell: Any) -> None:
    """Teaches the kernel to show data frames and figures as data, besides what it shows of them anyway."""
    from IPython.core.formatters import BaseFormatter
    from traitlets import ObjectName, Unicode

    class Data(BaseFormatter):
        format_type = Unicode("e2b/data")
        print_method = ObjectName("_repr_data_")
        _return_type = dict

    class Chart(BaseFormatter):
        format_type = Unicode("e2b/chart")
        print_method = ObjectName("_repr_chart_")
        _return_type = dict

        def pop(self, typ: Any, default: Any = None) -> Any:
            # A figure's picture formats are changed by making all formatters forget figures; this is no picture.
            return default

    formatter = shell.display_formatter
    data, chart = Data(parent=formatter), Chart(parent=formatter)
    data.for_type_by_name("pandas", "DataFrame", pandastack_tables.columns)
    chart.for_type_by_name("matplotlib.figure", "Figure", pandastack_charts.chart)
    formatter.formatters["e2b/data"] = data
    formatter.formatters["e2b/chart"] = chart
    pandastack_charts.remember_boxes()


def warm() -> None:
    """Imports and draws, so that the first cells of a sandbox need not."""
    import io

    import matplotlib.pyplot as plt
    import numpy as np
    import pandas as pd

    figure, axes = plt.subplots()
    axes.plot(np.arange(3))
    figure.savefig(io.BytesIO(), format="png")
    pandastack_charts.chart(figure)
    plt.close(figure)
    frame = pd.DataFrame({"a": [1, 2]})
    repr(frame)
    pandastack_tables.columns(frame)


def set_env(values: str) -> None:
    """Changes the environment: a JSON object of names and values; those that are null are removed."""
    for name, value in json.loads(values).items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def reseed() -> None:
    """Makes the generators of random numbers forget what they had in common with a sibling's."""
    random.seed()
    ssl.RAND_add(os.urandom(32), 32.0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
