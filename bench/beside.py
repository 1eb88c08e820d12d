"""The platform beside the guest agent reached straight: the places to measure both at, and the command line to ask."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pandastack import PandaStack
from pandastackd.child_server import ChildServer
from pandastackd.control.keys import AccessTokens
from pandastackd.guest.client import Connect
from stand_in import loopback, stand_in
from tests.vm.control_link import control_slot

TTL_SECONDS = 3600


@dataclass(frozen=True)
class Place:
    """A sandbox, with the platform in front of it and the way past the platform.

    Attributes:
        name: of its figures: ``stand_in``, whose agent is a process of this machine and no limit, or ``guest``.
        token: what the sandbox's agent demands of clients of the gateway.
        folder: where files may be put that go to memory.
        pids: of the processes of this machine that are on the path, by name.
        connect: a socket to the agent itself.
    """

    name: str
    url: str
    key: str
    sandbox: str
    token: str
    folder: str
    pids: Mapping[str, int]
    connect: Connect


Measure = Callable[[Place, argparse.Namespace], dict[str, Any]]
Rows = Callable[[str, dict[str, Any]], list[list[str]]]


def main(
    about: str, numbers: Mapping[str, tuple[int, str]], measure: Measure, heads: Sequence[str], rows: Rows
) -> int:
    """Measure at each place that is asked for, and print.

    Args:
        about: the text of ``--help``.
        numbers: options that are whole numbers from 1, by name: default and help.
        heads: of the table for people.
        rows: of the table, made of a place's name and what was measured there.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument("--guest", action="store_true", help="measure a microVM too; needs root and QEMU")
    for name, (default, text) in numbers.items():
        flag = f"-{name}" if len(name) == 1 else f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=int, default=default, help=text)
    options = parser.parse_args()
    asked = {name: getattr(options, name) for name in numbers}
    if min(asked.values()) < 1:
        parser.error("every number must be 1 or more")
    found: dict[str, dict[str, Any]] = {}
    for place in (on_stand_in, in_microvm) if options.guest else (on_stand_in,):
        with place() as there:
            found[there.name] = measure(there, options)
    if options.json:
        print(json.dumps({**asked, **found}))
    else:
        lines = [[*heads], ["---"] * len(heads)]
        lines += [row for name, figures in found.items() for row in rows(name.replace("_", "-"), figures)]
        print("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return 0


@contextmanager
def on_stand_in() -> Iterator[Place]:
    """The platform with an agent that is not the limit."""
    with stand_in() as platform:
        client = PandaStack(token=platform.key, base_url=platform.url)
        with client.sandboxes.create(template="base", ttl_seconds=TTL_SECONDS) as sandbox:
            yield Place(
                name="stand_in",
                url=platform.url,
                key=platform.key,
                sandbox=sandbox.id,
                token="",
                folder=str(platform.folder),
                pids={"server": platform.server_pid, "agent": platform.agent_pid},
                connect=loopback(platform.public, platform.control),
            )


@contextmanager
def in_microvm() -> Iterator[Place]:
    """A microVM on the data directory (``PANDASTACK_DATA_DIR``, default ``/var/lib/pandastack``)."""
    data_dir = Path(os.environ.get("PANDASTACK_DATA_DIR", "/var/lib/pandastack"))
    with ChildServer(data_dir, output=sys.stderr) as server:
        client = PandaStack(token=server.admin_key, base_url=server.url)
        with client.sandboxes.create(template="base", ttl_seconds=TTL_SECONDS) as sandbox:
            yield Place(
                name="guest",
                url=server.url,
                key=server.admin_key,
                sandbox=sandbox.id,
                token=AccessTokens.from_file(data_dir / "secret.key").of(sandbox.id),
                folder="/dev/shm",
                pids={"server": server.pid},
                connect=control_slot(data_dir, sandbox.id).connect,
            )
