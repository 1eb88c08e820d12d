"""The Python and the TypeScript SDK offer the same: classes, their members, what each method takes.

Names are compared as camelCase. What differs on purpose is in the tables here, with its reason; an entry that has no
difference to explain any more fails, too.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Callable
from typing import Any

import pytest

import pandastack
from pandastack import _models
from tests.unit.sdk.typescript_face import TypeScriptFace

TYPESCRIPT = TypeScriptFace()

NOT_IN_TYPESCRIPT = {
    "CellExit": "an object of the union CellEvent",
    "CellOutput": "an object of the union CellEvent",
    "CreateCancelled": "an aborted create rejects with its signal's reason",
    "__version__": "VERSION",
    "async_explore": "there is one explore, and it is asynchronous",
    "get_default_client": "Sandbox.create takes a client",
    "set_default_client": "Sandbox.create takes a client",
}
NOT_IN_PYTHON = {
    "CommandError": "the published name of CommandFailed",
    "NetworkError": "the published name of ConnectionError",
    "ExecStream": "exec_events iterates, exec_stream waits",
    "PandaStackError": "PandastackError",
    "VERSION": "__version__",
    "walkTree": "TreeNode.walk",
}
"""Values, that is; types that only name options are not compared."""

CLASSES = {
    name: {
        "CommandFailed": "CommandError",
        "ConnectionError": "NetworkError",
        "PandastackError": "PandaStackError",
    }.get(name, name)
    for name in pandastack.__all__
    if isinstance(getattr(pandastack, name), type)
    and not name.startswith("Async")
    and name not in {*NOT_IN_TYPESCRIPT, "APIConnectionError", "Client", "ExecOptions", "ProcessOptions"}
}
"""Python's classes and what TypeScript calls them."""

RENAMED = {
    "Sandbox": {"exec_events": "execStream", "__aexit__": "[asyncDispose]"},
    "SandboxCommands": {"events": "stream"},
    "SandboxFilesystem": {
        "listdir": "list",  # both as published
        "read": "readBytes",
        "read_text": "read",
        "write_stream": "write",
    },
    "CodeContext": {"__aexit__": "[asyncDispose]"},
    "Terminal": {
        "__aexit__": "[asyncDispose]",
        "__aiter__": "[Symbol.asyncIterator]",
        "events": "[Symbol.asyncIterator]",
        "wait": "exitCode",
    },
    "ExecOutput": {"stream": "type"},
}
"""Members with another name, as Python calls them."""

NOT_COMPARED = {"raw", "message", "from_dict", "from_events", "as_printed"}
"""What Python's values have for their own making, or what every object and error of the other language has."""

ONLY_PYTHON = {
    "Candidate": {"call", "command", "shell"},  # an object with `cmd` or `fn`
    "Execution": {"logs"},  # stdout and stderr together, as the published client has it
    "PandaStack": {"__aexit__", "close", "settings", "http"},  # connections are the runtime's
    "Sandbox": {"default_template", "update_from"},
    "Template": {"rootfs_path", "workspace"},  # of the published client, and always empty
    "TreeNode": {"walk"},  # walkTree
}
ONLY_TYPESCRIPT = {
    "ExecExit": {"type"},  # told apart by it, and by the class in Python
    "ExecOutput": {"text"},
    "Sandbox": {"files", "info"},
}

TAKES_ONLY_PYTHON = {
    "*": {"cancel"},  # an AbortSignal, which everything takes
    "SandboxCommands": {"timeout"},  # timeoutSeconds
    "SandboxFilesystem.read_text": {"encoding"},
    "SandboxFilesystem.write_stream": {"chunks", "size"},  # content
}
TAKES_ONLY_TYPESCRIPT = {
    "*": {"signal"},
    "Sandbox.create": {"client"},  # set_default_client
    "Sandbox.list": {"client"},
    "Sandbox.get": {"client"},
    "Sandbox.exec_events": {"onStderr", "onStdout"},  # of exec_stream
    "SandboxCommands": {"timeoutSeconds"},
    "SandboxCommands.run": {"check"},  # Sandbox.exec has it
    "SandboxCommands.events": {"onStderr", "onStdout"},  # of stream
    "SandboxFilesystem.write_stream": {"content"},
}


def _camel(name: str) -> str:
    return re.sub(r"_+(\w)", lambda match: match[1].upper(), name)


def _spelled(names: set[str]) -> set[str]:
    """Without the published snake_case spellings, which stand beside their camelCase."""
    return {name for name in names if "_" not in name or _camel(name) not in names}


def _members(name: str) -> dict[str, Any]:
    """The public members of a Python class, and those of its objects."""
    kind = getattr(pandastack, name)
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("pandastack"):
            found |= vars(base)
            found |= dict.fromkeys(re.findall(r"self\.([a-z]\w*)(?:: [^=]+)? =", _source_of_init(base)))
    if dataclasses.is_dataclass(kind):
        found |= {field.name: None for field in dataclasses.fields(kind)}
    # The generated client and its source differ in these alone.
    found |= {f"__a{word}__": found.pop(f"__{word}__") for word in ("exit", "iter") if f"__{word}__" in found}
    wanted = set() if issubclass(kind, _models.Record) else {"__aexit__", "__aiter__"}
    return {
        key: value
        for key, value in found.items()
        if key in wanted or not (key.startswith("_") or key in NOT_COMPARED)
    }


def _source_of_init(kind: type) -> str:
    if dataclasses.is_dataclass(kind) or "__init__" not in vars(kind):
        return ""
    return inspect.getsource(vars(kind)["__init__"])


def _is_method(value: object) -> bool:
    return inspect.isfunction(value.__func__ if isinstance(value, classmethod) else value)


def _takes(function: Callable[..., Any]) -> set[str]:
    """What a function takes by name, in camelCase, typed options unfolded."""
    taken = set()
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            typed = re.search(r"Unpack\[(\w+)\]", str(parameter.annotation))
            if typed is not None:
                taken |= set(typing.get_type_hints(getattr(pandastack, typed[1])))
            elif function.__name__ == "create":
                taken |= _takes(pandastack.SandboxesAPI.create)
            elif function.__name__ == "explore":
                taken |= _takes(pandastack.explore) - {"sandbox"}
            else:
                raise AssertionError(f"{function} takes what nobody can see: {parameter}")
        elif parameter.name not in {"self", "cls"}:
            taken.add(parameter.name)
    return {_camel(name) for name in taken}


def test_the_same_can_be_imported() -> None:
    ours = {name.removeprefix("Async") for name in pandastack.__all__}
    spelled_otherwise = {"APIConnectionError", "PandastackError"}
    assert ours - TYPESCRIPT.names == NOT_IN_TYPESCRIPT.keys() | spelled_otherwise
    values = {name for name in TYPESCRIPT.names if TYPESCRIPT.is_value(name)}
    assert values - ours == NOT_IN_PYTHON.keys()


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_classes_have_the_same_members(name: str) -> None:
    theirs = _spelled(TYPESCRIPT.declared[CLASSES[name]].members) - {"constructor"}
    renamed = RENAMED.get(name, {})
    alone = ONLY_PYTHON.get(name, set())
    assert {renamed.get(member, _camel(member)) for member in _members(name).keys() - alone} - theirs == set()
    ours = {renamed.get(member, _camel(member)) for member in _members(name)}
    assert theirs - ours == ONLY_TYPESCRIPT.get(name, set())
    assert {_camel(member) for member in alone} - theirs == {_camel(member) for member in alone}
    assert alone | renamed.keys() <= _members(name).keys()


def test_methods_take_the_same() -> None:
    found: dict[str, dict[str, set[str]]] = {"python": {}, "typescript": {}}
    compared = 0
    for name in sorted(CLASSES):
        for method, value in _members(name).items():
            if method.startswith("__") or method in ONLY_PYTHON.get(name, set()) or not _is_method(value):
                continue
            compared += 1
            counterpart = RENAMED.get(name, {}).get(method, _camel(method))
            theirs = _spelled(TYPESCRIPT.declared[CLASSES[name]].takes.get(counterpart, set()))
            ours = _takes(getattr(getattr(pandastack, name), method))
            for side, names, table in (
                ("python", ours - theirs, TAKES_ONLY_PYTHON),
                ("typescript", theirs - ours, TAKES_ONLY_TYPESCRIPT),
            ):
                for each in names:
                    places = ("*", name, f"{name}.{method}")
                    place = next((place for place in places if each in table.get(place, ())), places[-1])
                    found[side].setdefault(place, set()).add(each)
    assert found == {"python": TAKES_ONLY_PYTHON, "typescript": TAKES_ONLY_TYPESCRIPT}
    assert compared > 60


def test_clients_and_explore_take_the_same() -> None:
    theirs = TYPESCRIPT.declared["PandaStack"].takes["constructor"]
    ours = _takes(pandastack.PandaStack)
    assert ours - theirs == {"apiBase", "timeout", "transport"}
    assert theirs - ours == {"timeoutMs", "fetch", "webSocket"}
    assert TYPESCRIPT.functions["explore"] - _takes(pandastack.explore) == {"signal"}
    assert _takes(pandastack.explore) <= TYPESCRIPT.functions["explore"]


def test_the_reader_of_sources_sees_every_kind_of_member() -> None:
    sandbox = TYPESCRIPT.declared["Sandbox"]
    assert {"commands", "status", "create", "logs", "fork", "exec", "[asyncDispose]"} <= sandbox.members
    assert sandbox.takes["fork"] >= {"count", "metadata"}
    assert "internal" not in TYPESCRIPT.declared
    assert {"settings", "http"}.isdisjoint(TYPESCRIPT.declared["PandaStack"].members)
