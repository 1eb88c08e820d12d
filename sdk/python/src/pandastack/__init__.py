"""PandaStack: run untrusted code in microVMs that restore and fork in a fraction of a second.

    from pandastack import PandaStack

    with PandaStack() as client, client.sandboxes.create(ttl_seconds=600) as sandbox:
        print(sandbox.exec("echo hello").stdout)

Names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pandastack._version import __version__

if TYPE_CHECKING:
    from pandastack._async._client import AsyncPandaStack as AsyncClient
    from pandastack._async._client import AsyncPandaStack as AsyncPandaStack
    from pandastack._async._code import AsyncCodeContext as AsyncCodeContext
    from pandastack._async._commands import AsyncSandboxCommands as AsyncSandboxCommands
    from pandastack._async._explore import AsyncBranchOutcome as AsyncBranchOutcome
    from pandastack._async._explore import AsyncCandidate as AsyncCandidate
    from pandastack._async._explore import AsyncExploreResult as AsyncExploreResult
    from pandastack._async._explore import explore as async_explore
    from pandastack._async._filesystem import AsyncSandboxFilesystem as AsyncSandboxFilesystem
    from pandastack._async._resources import AsyncSnapshotsAPI as AsyncSnapshotsAPI
    from pandastack._async._resources import AsyncTemplatesAPI as AsyncTemplatesAPI
    from pandastack._async._resources import AsyncTokensAPI as AsyncTokensAPI
    from pandastack._async._sandbox import AsyncSandbox as AsyncSandbox
    from pandastack._async._sandboxes import AsyncSandboxesAPI as AsyncSandboxesAPI
    from pandastack._async._terminal import AsyncTerminal as AsyncTerminal
    from pandastack._models import Account as Account
    from pandastack._models import CellEvent as CellEvent
    from pandastack._models import CellException as CellException
    from pandastack._models import CellExit as CellExit
    from pandastack._models import CellOutput as CellOutput
    from pandastack._models import ExecEvent as ExecEvent
    from pandastack._models import ExecExit as ExecExit
    from pandastack._models import ExecOutput as ExecOutput
    from pandastack._models import ExecResult as ExecResult
    from pandastack._models import Execution as Execution
    from pandastack._models import FileInfo as FileInfo
    from pandastack._models import Lifecycle as Lifecycle
    from pandastack._models import Network as Network
    from pandastack._models import Promotion as Promotion
    from pandastack._models import Result as Result
    from pandastack._models import Snapshot as Snapshot
    from pandastack._models import Template as Template
    from pandastack._models import Token as Token
    from pandastack._models import TreeNode as TreeNode
    from pandastack._models import WriteResult as WriteResult
    from pandastack._options import ExecOptions as ExecOptions
    from pandastack._options import ProcessOptions as ProcessOptions
    from pandastack._retry import CreateRetryEvent as CreateRetryEvent
    from pandastack._sync._client import PandaStack as Client
    from pandastack._sync._client import PandaStack as PandaStack
    from pandastack._sync._code import CodeContext as CodeContext
    from pandastack._sync._commands import SandboxCommands as SandboxCommands
    from pandastack._sync._defaults import get_default_client as get_default_client
    from pandastack._sync._defaults import set_default_client as set_default_client
    from pandastack._sync._explore import BranchOutcome as BranchOutcome
    from pandastack._sync._explore import Candidate as Candidate
    from pandastack._sync._explore import ExploreResult as ExploreResult
    from pandastack._sync._explore import explore as explore
    from pandastack._sync._filesystem import SandboxFilesystem as SandboxFilesystem
    from pandastack._sync._resources import SnapshotsAPI as SnapshotsAPI
    from pandastack._sync._resources import TemplatesAPI as TemplatesAPI
    from pandastack._sync._resources import TokensAPI as TokensAPI
    from pandastack._sync._sandbox import Sandbox as Sandbox
    from pandastack._sync._sandboxes import SandboxesAPI as SandboxesAPI
    from pandastack._sync._terminal import Terminal as Terminal
    from pandastack.errors import APIConnectionError as APIConnectionError
    from pandastack.errors import AuthError as AuthError
    from pandastack.errors import BadRequestError as BadRequestError
    from pandastack.errors import CapacityError as CapacityError
    from pandastack.errors import CommandFailed as CommandFailed
    from pandastack.errors import ConflictError as ConflictError
    from pandastack.errors import ConnectionError as ConnectionError  # noqa: A004
    from pandastack.errors import CreateCancelled as CreateCancelled
    from pandastack.errors import ExecInterrupted as ExecInterrupted
    from pandastack.errors import ExploreError as ExploreError
    from pandastack.errors import ForbiddenError as ForbiddenError
    from pandastack.errors import ForkIncomplete as ForkIncomplete
    from pandastack.errors import NotBuiltError as NotBuiltError
    from pandastack.errors import NotFoundError as NotFoundError
    from pandastack.errors import PandastackError as PandastackError
    from pandastack.errors import RateLimitError as RateLimitError
    from pandastack.errors import RequestTimeout as RequestTimeout
    from pandastack.errors import SandboxTimeout as SandboxTimeout
    from pandastack.errors import ServerError as ServerError
    from pandastack.errors import TemplateBuildError as TemplateBuildError
    from pandastack.errors import TooLargeError as TooLargeError

__all__ = [
    "APIConnectionError",
    "Account",
    "AsyncBranchOutcome",
    "AsyncCandidate",
    "AsyncClient",
    "AsyncCodeContext",
    "AsyncExploreResult",
    "AsyncPandaStack",
    "AsyncSandbox",
    "AsyncSandboxCommands",
    "AsyncSandboxFilesystem",
    "AsyncSandboxesAPI",
    "AsyncSnapshotsAPI",
    "AsyncTemplatesAPI",
    "AsyncTerminal",
    "AsyncTokensAPI",
    "AuthError",
    "BadRequestError",
    "BranchOutcome",
    "Candidate",
    "CapacityError",
    "CellEvent",
    "CellException",
    "CellExit",
    "CellOutput",
    "Client",
    "CodeContext",
    "CommandFailed",
    "ConflictError",
    "ConnectionError",
    "CreateCancelled",
    "CreateRetryEvent",
    "ExecEvent",
    "ExecExit",
    "ExecInterrupted",
    "ExecOptions",
    "ExecOutput",
    "ExecResult",
    "Execution",
    "ExploreError",
    "ExploreResult",
    "FileInfo",
    "ForbiddenError",
    "ForkIncomplete",
    "Lifecycle",
    "Network",
    "NotBuiltError",
    "NotFoundError",
    "PandaStack",
    "PandastackError",
    "ProcessOptions",
    "Promotion",
    "RateLimitError",
    "RequestTimeout",
    "Result",
    "Sandbox",
    "SandboxCommands",
    "SandboxFilesystem",
    "SandboxTimeout",
    "SandboxesAPI",
    "ServerError",
    "Snapshot",
    "SnapshotsAPI",
    "Template",
    "TemplateBuildError",
    "TemplatesAPI",
    "Terminal",
    "Token",
    "TokensAPI",
    "TooLargeError",
    "TreeNode",
    "WriteResult",
    "__version__",
    "async_explore",
    "explore",
    "get_default_client",
    "set_default_client",
]

_HOMES = {
    "._async._client": ("AsyncClient", "AsyncPandaStack"),
    "._async._code": ("AsyncCodeContext",),
    "._async._commands": ("AsyncSandboxCommands",),
    "._async._explore": ("AsyncBranchOutcome", "AsyncCandidate", "AsyncExploreResult", "async_explore"),
    "._async._terminal": ("AsyncTerminal",),
    "._async._filesystem": ("AsyncSandboxFilesystem",),
    "._async._resources": ("AsyncSnapshotsAPI", "AsyncTemplatesAPI", "AsyncTokensAPI"),
    "._async._sandbox": ("AsyncSandbox",),
    "._async._sandboxes": ("AsyncSandboxesAPI",),
    "._models": (
        "Account",
        "CellEvent",
        "CellException",
        "CellExit",
        "CellOutput",
        "ExecEvent",
        "ExecExit",
        "ExecOutput",
        "ExecResult",
        "Execution",
        "FileInfo",
        "Lifecycle",
        "Network",
        "Promotion",
        "Result",
        "Snapshot",
        "Template",
        "Token",
        "TreeNode",
        "WriteResult",
    ),
    "._options": ("ExecOptions", "ProcessOptions"),
    "._retry": ("CreateRetryEvent",),
    "._sync._client": ("Client", "PandaStack"),
    "._sync._code": ("CodeContext",),
    "._sync._commands": ("SandboxCommands",),
    "._sync._defaults": ("get_default_client", "set_default_client"),
    "._sync._explore": ("BranchOutcome", "Candidate", "ExploreResult", "explore"),
    "._sync._terminal": ("Terminal",),
    "._sync._filesystem": ("SandboxFilesystem",),
    "._sync._resources": ("SnapshotsAPI", "TemplatesAPI", "TokensAPI"),
    "._sync._sandbox": ("Sandbox",),
    "._sync._sandboxes": ("SandboxesAPI",),
    ".errors": (
        "APIConnectionError",
        "AuthError",
        "BadRequestError",
        "CapacityError",
        "CommandFailed",
        "ConflictError",
        "ConnectionError",
        "CreateCancelled",
        "ExecInterrupted",
        "ExploreError",
        "ForbiddenError",
        "ForkIncomplete",
        "NotBuiltError",
        "NotFoundError",
        "PandastackError",
        "RateLimitError",
        "RequestTimeout",
        "SandboxTimeout",
        "ServerError",
        "TemplateBuildError",
        "TooLargeError",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_SPELLINGS = {"AsyncClient": "AsyncPandaStack", "Client": "PandaStack", "async_explore": "explore"}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(__name__ + _HOME_OF[name]), _SPELLINGS.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
