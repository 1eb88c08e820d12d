"""Runs inside a virtual environment with the published e2b-code-interpreter: cells and all that comes of them."""

# mypy: ignore-errors
# (its imports exist only in that environment)

from __future__ import annotations

import base64
import os
import re

from capability import fails, run
from e2b_code_interpreter import Sandbox, TimeoutException


def cells(box):
    assert box.run_code("2 ** 10").text == "1024"
    box.run_code("x = 41")
    done = box.run_code("print('ünï'); import sys; print('err', file=sys.stderr); x + 1")
    assert (done.text, "".join(done.logs.stdout), "".join(done.logs.stderr)) == ("42", "ünï\n", "err\n"), done
    assert box.run_code("import os; os.environ['Q']", envs={"Q": "value"}).text == "'value'"


def errors(box):
    error = box.run_code("1 / 0").error
    assert error.name == "ZeroDivisionError"
    assert "division" in error.value
    # The traceback comes in colours.
    assert "1 / 0" in re.sub("\x1b\\[[0-9;]*m", "", error.traceback)


def pictures(box):
    done = box.run_code("import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.show()")
    assert done.error is None, done.error
    png = next(result.png for result in done.results if result.png)
    assert base64.b64decode(png).startswith(b"\x89PNG")


def charts(box):
    done = box.run_code("plt.bar(['a', 'b'], [3, 4])\nplt.title('T')\nplt.show()")
    (chart,) = [result.chart for result in done.results if result.chart]
    assert (chart.type.value, chart.title) == ("bar", "T")
    assert [(bar.label, float(bar.value)) for bar in chart.elements] == [("a", 3.0), ("b", 4.0)]


def tables(box):
    done = box.run_code("import pandas\npandas.DataFrame({'a': [1, 2]})")
    assert "<table" in done.results[0].html


def contexts(box):
    context = box.create_code_context()
    assert box.run_code("'x' in globals()", context=context).text == "False"
    assert box.run_code("'x' in globals()").text == "True"


def stopping(box):
    box.run_code("kept = 1")
    fails(TimeoutException, lambda: box.run_code("import time; time.sleep(60)", timeout=2))
    assert box.run_code("kept").text == "1"


def languages(box):
    assert box.run_code("echo $((6 * 7))", language="bash").logs.stdout == ["42\n"]
    assert box.run_code("[20, 22].reduce((a, b) => a + b)", language="javascript").text == "42"


def names(box):
    """All of it under a domain, and by no address."""
    assert "E2B_SANDBOX_URL" not in os.environ
    assert box.get_host(49999) == f"49999-{box.sandbox_id}.{os.environ['E2B_DOMAIN']}"


def main():
    """All of it in one sandbox."""
    # Before 2.0 it was made by calling the class.
    box = getattr(Sandbox, "create", Sandbox)(timeout=600)
    checks = [cells, errors, pictures, charts, tables, contexts, stopping]
    # The language is one word of a request: those that tell it by name need not tell it once more.
    checks += [names] if "E2B_DOMAIN" in os.environ else [languages]
    try:
        run(checks, box)
    finally:
        box.kill()


if __name__ == "__main__":
    main()
