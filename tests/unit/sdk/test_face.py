"""The public face: what can be imported, that both clients offer the same, that the generated one is current."""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
import sys
import tomllib
import typing
from pathlib import Path
from types import ModuleType

import pytest

import pandastack

SDK = Path(__file__).resolve().parents[3] / "sdk" / "python"

PUBLISHED = [
    "APIConnectionError",
    "AuthError",
    "BadRequestError",
    "BranchOutcome",
    "Candidate",
    "Client",
    "CodeContext",
    "CommandFailed",
    "CreateCancelled",
    "CreateRetryEvent",
    "ExecInterrupted",
    "ExploreError",
    "ExploreResult",
    "explore",
    "ConnectionError",
    "ExecResult",
    "Execution",
    "FileInfo",
    "Result",
    "NotFoundError",
    "PandastackError",
    "Sandbox",
    "SandboxCommands",
    "SandboxFilesystem",
    "SandboxTimeout",
    "ServerError",
    "Template",
    "TemplateBuildError",
    "TemplatesAPI",
    "Token",
    "SnapshotsAPI",
    "__version__",
    "get_default_client",
    "set_default_client",
]

PUBLISHED_SANDBOX = [
    "create",
    "list",
    "get",
    "exec",
    "exec_stream",
    "run_code",
    "create_code_context",
    "logs",
    "kill",
    "pause",
    "resume",
    "snapshot",
    "fork",
    "fork_tree",
    "promote",
    "explore",
    "hibernate",
    "wake",
    "set_ttl",
    "set_persistent",
    "lifecycle",
    "preview_url",
    "preview_urls",
    "refresh",
    "filesystem",
    "commands",
]


def test_all_is_sorted_and_every_name_is_there() -> None:
    assert pandastack.__all__ == sorted(pandastack.__all__)
    for name in pandastack.__all__:
        assert getattr(pandastack, name) is not None


def test_all_names_what_type_checkers_see() -> None:
    source = (SDK / "src/pandastack/__init__.py").read_text()
    seen = {
        line.split(" as ")[1].split()[0]
        for line in source.splitlines()
        if " as " in line and "import" in line
    }
    assert seen | {"__version__"} == set(pandastack.__all__)


def test_published_names_are_there() -> None:
    assert set(PUBLISHED) <= set(pandastack.__all__)
    assert [name for name in PUBLISHED_SANDBOX if not hasattr(pandastack.Sandbox, name)] == []


def test_both_spellings_are_one_class() -> None:
    assert pandastack.Client is pandastack.PandaStack
    assert pandastack.AsyncClient is pandastack.AsyncPandaStack
    assert pandastack.APIConnectionError is pandastack.ConnectionError


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = pandastack.nonsense


def test_version_is_that_of_the_distribution() -> None:
    project = tomllib.loads((SDK / "pyproject.toml").read_text())["project"]
    assert project["version"] == pandastack.__version__


def test_types_are_shipped() -> None:
    assert (SDK / "src/pandastack/py.typed").exists()


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import pandastack, sys; print(sorted({'httpx', 'anyio', 'rich', 'typer'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_sync", SDK / "scripts/generate_sync.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_sync_client_is_generated_from_the_async_one() -> None:
    assert _generator().stale() == []


def _pairs() -> list[tuple[type, type]]:
    names = [name for name in pandastack.__all__ if name.startswith("Async") and name != "AsyncClient"]
    return [(getattr(pandastack, name), getattr(pandastack, name.removeprefix("Async"))) for name in names]


@pytest.mark.parametrize(("other", "one"), _pairs(), ids=lambda kind: kind.__name__)
def test_sync_and_async_offer_the_same(other: type, one: type) -> None:
    def members(kind: type) -> dict[str, object]:
        same = {"aclose": "close", "__aenter__": "__enter__", "__aexit__": "__exit__"}
        return {
            same.get(name, name): value
            for name, value in vars(kind).items()
            if not name.startswith("_") or name.endswith(("enter__", "exit__"))
        }

    theirs, ours = members(other), members(one)
    assert theirs.keys() == ours.keys()
    for name, theirs_value in theirs.items():
        if inspect.isfunction(theirs_value):
            mine = ours[name]
            assert inspect.isfunction(mine)
            assert list(inspect.signature(theirs_value).parameters) == list(
                inspect.signature(mine).parameters
            )
            assert not inspect.iscoroutinefunction(mine)
            assert not inspect.isasyncgenfunction(mine)


def test_the_hand_written_pair_has_the_same_names() -> None:
    from pandastack._async import _runtime as one
    from pandastack._sync import _runtime as other

    def functions(module: ModuleType) -> dict[str, list[str]]:
        found = {name: value for name, value in vars(module).items() if inspect.isfunction(value)}
        return {
            name: list(inspect.signature(value).parameters)
            for name, value in found.items()
            if value.__module__ == module.__name__
        }

    assert functions(one) == functions(other)


def test_the_exception_tree_in_the_docstring_is_the_real_one() -> None:
    from pandastack import errors

    assert errors.__doc__ is not None
    drawn = {line.split("── ")[1].split()[0] for line in errors.__doc__.splitlines() if "── " in line}
    real = {
        value.__name__
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.PandastackError)
    } - {"PandastackError"}
    assert drawn == real


def test_fork_is_typed_by_count() -> None:
    assert len(typing.get_overloads(pandastack.Sandbox.fork)) == 2
