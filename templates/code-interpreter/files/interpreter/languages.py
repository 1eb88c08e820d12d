"""The languages: how each kernel is started, stopped from without, and told what it cannot know by itself.

Kernel and server talk over sockets in the file system where the kernel can, else over the loopback device; both
go along with a copy of the machine. What a kernel is told is code of its own language, run as a cell that leaves
no trace in the history.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

INSIDE = Path(__file__).resolve().parent.parent / "inside"
"""What is loaded into the kernels."""

Environment = Mapping[str, str | None]
"""Variables to set; those that are None are removed."""


@dataclass(frozen=True)
class Language:
    """One language and its kernel.

    Attributes:
        name: what the API calls it.
        aliases: what else callers may call it.
        command: starts the kernel; ``{connection_file}`` stands for the file that says where to talk.
        set_env: code that changes the environment of the kernel and of what it starts.
        reseed: code that makes the random generators different from a sibling's, given a fresh number.
        prelude: code that is run once in each new kernel.
        warm: code that brings into memory what most cells need, run once before the machine is frozen.
        transport: ``ipc`` or ``tcp``.
        values_are_displayed: the kernel tells a cell's value in the way that it tells all it shows.
        late_seconds: how long after a cell's end to wait for what the kernel still has to say about it.
        interrupt: how a running cell is stopped: by ``signal`` or by ``message``.
        environment: added to what the kernel inherits.
    """

    name: str
    aliases: tuple[str, ...]
    command: tuple[str, ...]
    set_env: Callable[[Environment], str]
    reseed: Callable[[int], str]
    prelude: str = ""
    warm: str = ""
    transport: str = "ipc"
    late_seconds: float = 0.0
    interrupt: str = "signal"
    values_are_displayed: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


def _python_env(values: Environment) -> str:
    return f"__import__('pandastack_kernel').set_env({json.dumps(json.dumps(values))})"


def _bash_env(values: Environment) -> str:
    return "\n".join(
        f"unset {name}" if value is None else f"export {name}={shlex.quote(value)}"
        for name, value in values.items()
    )


def _r_env(values: Environment) -> str:
    return "\n".join(
        f'invisible(Sys.unsetenv("{name}"))'
        if value is None
        else f"invisible(Sys.setenv({name}={_quoted(value)}))"
        for name, value in values.items()
    )


def _deno_env(values: Environment) -> str:
    steps = (
        f'Deno.env.delete("{name}")' if value is None else f'Deno.env.set("{name}", {_quoted(value)})'
        for name, value in values.items()
    )
    return "; ".join((*steps, "undefined"))


def _java_env(values: Environment) -> str:
    # Java shows a process the environment that it started with; the map behind that is changed here.
    steps = "".join(
        f'env.remove("{name}");' if value is None else f'env.put("{name}", {_quoted(value)});'
        for name, value in values.items()
    )
    return _JAVA_ENV.replace("STEPS", steps)


_JAVA_ENV = """{
  var shown = Class.forName("java.lang.ProcessEnvironment").getDeclaredField("theUnmodifiableEnvironment");
  shown.setAccessible(true);
  var behind = Class.forName("java.util.Collections$UnmodifiableMap").getDeclaredField("m");
  behind.setAccessible(true);
  @SuppressWarnings("unchecked") var env = (java.util.Map<String, String>) behind.get(shown.get(null));
  STEPS
}"""
_JAVA_RESEED = """{
  var holder = Class.forName("java.lang.Math$RandomNumberGeneratorHolder").getDeclaredField("randomNumberGenerator");
  holder.setAccessible(true);
  ((java.util.Random) holder.get(null)).setSeed(SEED);
}"""


def _quoted(text: str) -> str:
    """A string literal of JSON, which is also one of R, JavaScript and Java."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


_PYTHON = Language(
    name="python",
    aliases=("py", "python3", "ipython"),
    command=(sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"),
    set_env=_python_env,
    reseed=lambda _: "__import__('pandastack_kernel').reseed()",
    prelude=(
        f"__import__('sys').path.append({str(INSIDE)!r})\n"
        "__import__('pandastack_kernel').install(get_ipython())"
    ),
    warm="__import__('pandastack_kernel').warm()",
)


def _deno(name: str, *aliases: str) -> Language:
    # Deno takes JavaScript for the TypeScript without types that it is: one kernel, two names.
    return Language(
        name=name,
        aliases=aliases,
        command=("/usr/local/bin/deno", "jupyter", "--kernel", "--conn", "{connection_file}"),
        set_env=_deno_env,
        reseed=lambda seed: f"globalThis[Symbol.for('pandastack.reseed')]?.({seed}n); undefined",
        prelude=(INSIDE / "javascript.js").read_text(),
        transport="tcp",
        # Output, value and the word that the cell is done go their own ways through Deno, and overtake each other.
        late_seconds=0.1,
        interrupt="message",
        environment={"DENO_NO_UPDATE_CHECK": "1", "NO_COLOR": "1"},
    )


_R = Language(
    name="r",
    aliases=("ir", "rlang"),
    command=("/usr/bin/R", "--slave", "--no-save", "-e", "IRkernel::main()", "--args", "{connection_file}"),
    set_env=_r_env,
    reseed=lambda seed: f"set.seed({seed % 2**31})",
    prelude=(INSIDE / "r.R").read_text(),
    values_are_displayed=True,
)

_JAVA = Language(
    name="java",
    aliases=("jshell",),
    command=(sys.executable, str(INSIDE / "java_kernel.py"), "-f", "{connection_file}"),
    set_env=_java_env,
    reseed=lambda seed: _JAVA_RESEED.replace("SEED", f"{seed}L"),
)

_BASH = Language(
    name="bash",
    aliases=("sh", "shell"),
    command=(sys.executable, str(INSIDE / "bash_kernel.py"), "-f", "{connection_file}"),
    set_env=_bash_env,
    reseed=lambda seed: f"RANDOM={seed % 2**15}",
)

LANGUAGES = (_PYTHON, _deno("javascript", "js", "node"), _deno("typescript", "ts"), _R, _JAVA, _BASH)
"""All languages; the first is the one that a caller who names none means."""

_BY_NAME = {name: language for language in LANGUAGES for name in (language.name, *language.aliases)}


def find(name: str | None) -> Language:
    """The language with this name or alias, in any case; the first one for no name.

    Raises:
        LookupError: there is none; says which there are.
    """
    if not name:
        return LANGUAGES[0]
    try:
        return _BY_NAME[name.lower()]
    except KeyError:
        known = ", ".join(language.name for language in LANGUAGES)
        raise LookupError(f"language {name[:40]} is not supported; there is: {known}") from None
