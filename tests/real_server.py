"""The server of the tests that need a whole platform: a child process on a data directory that is kept between runs.

Needs root, QEMU and the templates; the first use on a machine builds them (minutes), later uses find them baked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pandastack import NotFoundError, PandaStack
from pandastackd.child_server import ChildServer

DATA_DIR = Path(os.environ.get("PANDASTACK_TEST_DATA_DIR", "/var/tmp/pandastack-test"))


def admin(server: ChildServer) -> PandaStack:
    """A client with the admin key."""
    return PandaStack(token=server.admin_key, base_url=server.url)


@contextmanager
def real_server(log: Path, env: Mapping[str, str] | None = None) -> Iterator[ChildServer]:
    """A running server that prints to ``log``; every sandbox and snapshot is deleted before and after."""
    with log.open("ab") as output, ChildServer(DATA_DIR, output=output, env=env) as server:
        # What a run left that was killed.
        delete_all(admin(server))
        try:
            yield server
        finally:
            delete_all(admin(server))


def delete_all(client: PandaStack) -> None:
    """Delete every sandbox and snapshot the client can see."""
    for sandbox in client.sandboxes.list():
        try:
            sandbox.kill()
        except NotFoundError:
            continue
    for snapshot in client.snapshots.list():
        try:
            client.snapshots.delete(snapshot.id)
        except NotFoundError:
            continue


if __name__ == "__main__":
    # Builds the templates with their progress in sight, and before any test's time begins to count.
    with ChildServer(DATA_DIR):
        pass
