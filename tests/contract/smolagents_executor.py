"""Runs inside an environment with smolagents[e2b]: its executor, the way its code agents use it; no language model.

The model of the one agent says what it was written to say.
"""

# mypy: ignore-errors
# (its imports exist only in that environment)

from __future__ import annotations

import datetime

import PIL.Image
from capability import fails, run
from smolagents import ChatMessage, CodeAgent, FinalAnswerTool, LogLevel, Model, tool
from smolagents.monitoring import AgentLogger
from smolagents.remote_executors import E2BExecutor
from smolagents.utils import AgentError


@tool
def double(number: int) -> int:
    """Twice a number.

    Args:
        number: which one.
    """
    return 2 * number


def packages(executor):
    """Those asked for when it was made; this one is there already, so it needs no network."""
    assert executor.installed_packages == ["requests"]
    fails(AgentError, lambda: executor("import no_such_package"), "ModuleNotFoundError")


def cells(executor):
    assert executor("x = 41").output is None
    done = executor("print('ünï')\nx + 1")
    assert (done.output, done.logs.strip(), done.is_final_answer) == ("42", "ünï", False), done


def errors(executor):
    fails(
        AgentError,
        lambda: executor("print('before')\n1 / 0"),
        "before",
        "ZeroDivisionError",
        "division by zero",
    )
    assert executor("x").output == "41"


def pictures(executor):
    drawn = executor("import PIL.Image\nPIL.Image.new('RGB', (30, 20), 'red')").output
    assert isinstance(drawn, PIL.Image.Image)
    assert (drawn.size, drawn.convert("RGB").getpixel((9, 9))[0] > 200) == ((30, 20), True)


def tools(executor):
    executor.send_variables({"number": 21, "day": datetime.date(2026, 2, 3), "blob": b"\0\xff"})
    assert executor("number, day.year, blob").output == "(21, 2026, b'\\x00\\xff')"
    executor.send_tools({"double": double, "final_answer": FinalAnswerTool()})
    assert executor("double(number)").output == "42"


def answers(executor):
    done = executor("final_answer({'ünï': (double(number), None, b'\\0')})")
    assert (done.output, done.is_final_answer) == ({"ünï": (42, None, b"\0")}, True), done
    picture = executor("final_answer(PIL.Image.new('RGB', (30, 20), 'red'))").output
    assert picture.getpixel((9, 9)) == (255, 0, 0)


class Scripted(Model):
    """Says one thing after the other."""

    def __init__(self, *sayings):
        super().__init__(model_id="scripted")
        self.sayings = list(sayings)

    def generate(self, messages, **_):
        code = self.sayings.pop(0)
        return ChatMessage(role="assistant", content=f"Thought: so be it.\n<code>\n{code}\n</code>")


def agent(_executor):
    model = Scripted("found = double(number)\nfound", "final_answer(found + 1)")
    with CodeAgent(tools=[double], model=model, executor_type="e2b", verbosity_level=LogLevel.OFF) as made:
        assert made.run("Answer.", additional_args={"number": 21}) == 43
        assert len(made.memory.get_full_steps()) == 3, "the task and two actions"


def ending(executor):
    sandbox = executor.sandbox
    executor.cleanup()
    assert not sandbox.is_running()


if __name__ == "__main__":
    executor = E2BExecutor(["requests"], AgentLogger(LogLevel.OFF))
    try:
        run((packages, cells, errors, pictures, tools, answers, agent, ending), executor)
    finally:
        executor.cleanup()
