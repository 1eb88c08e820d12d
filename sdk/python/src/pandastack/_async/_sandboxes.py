"""All sandboxes of an account: make, find, fork, delete."""

from __future__ import annotations

import builtins
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

from pandastack import _wire, errors
from pandastack._async._runtime import CancelEvent
from pandastack._async._sandbox import AsyncSandbox
from pandastack._models import Json, Promotion, Snapshot
from pandastack._wire import CREATE_TIMEOUT_SECONDS, Call, Volumes

if TYPE_CHECKING:
    from pandastack._async._client import AsyncPandaStack


class AsyncSandboxesAPI:
    """``client.sandboxes``."""

    def __init__(self, client: AsyncPandaStack) -> None:
        self._client = client

    async def create(
        self,
        template: str = "code-interpreter",
        cpu: int | None = None,
        memory_mb: int | None = None,
        ttl_seconds: int | None = None,
        persistent: bool = False,
        metadata: Mapping[str, str] | None = None,
        from_snapshot: str | Snapshot | None = None,
        volumes: Volumes | None = None,
        *,
        env: Mapping[str, str] | None = None,
        on_timeout: Literal["delete", "hibernate"] | None = None,
        network: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        cancel: CancelEvent | None = None,
    ) -> AsyncSandbox:
        """Make a sandbox; it is ready for commands when this returns.

        While the server has no capacity the request is sent again, within the client's retry budget.

        Args:
            template: what to make it from.
            cpu: has no effect, as in the published client: the template decides.
            memory_mb: has no effect, as ``cpu``.
            ttl_seconds: how long it lives after its last use; default: the server's.
            persistent: live until killed.
            metadata: labels of your own.
            from_snapshot: restore this snapshot instead of the template's.
            volumes: names, or ``{"name": …, "read_only": …}``.
            env: environment of everything that runs in it, also in its snapshots and forks.
            on_timeout: what happens when ``ttl_seconds`` is over; default: the server's, which is to delete.
            network: what its network may do: any of ``internet``, ``allow_out``, ``deny_out``, ``public_traffic`` and
                ``mask_host``; see :class:`Network`. Default: the public internet, and ports for everybody.
            idempotency_key: two creates with the same key are one create.
            cancel: an event that ends the waiting for capacity.

        Raises:
            CapacityError: there was no capacity within the budget.
            CreateCancelled: ``cancel`` was set.
        """
        if cpu is not None or memory_mb is not None:
            warnings.warn(
                "cpu and memory_mb have no effect: the template decides them",
                DeprecationWarning,
                stacklevel=2,
            )
        snapshot_id = from_snapshot.id if isinstance(from_snapshot, Snapshot) else from_snapshot
        body = _wire.without_none(
            template=template,
            ttl_seconds=ttl_seconds,
            persistent=True if persistent else None,
            metadata=None if metadata is None else dict(metadata),
            from_snapshot=snapshot_id,
            volumes=_wire.volumes(volumes),
            env=None if env is None else dict(env),
            on_timeout=on_timeout,
            network=None if network is None else dict(network),
        )
        call = Call(
            "POST",
            "/sandboxes",
            json=body,
            headers=_wire.idempotency(idempotency_key),
            timeout_seconds=CREATE_TIMEOUT_SECONDS,
        )
        return self._sandbox(_wire.mapping(await self._client.http.create(call, cancel)))

    async def list(self) -> builtins.list[AsyncSandbox]:
        """Every sandbox of the account."""
        answer = await self._client.http.request(Call("GET", "/sandboxes"))
        return [self._sandbox(item) for item in _wire.items(answer, "sandboxes")]

    async def get(self, sandbox_id: str) -> AsyncSandbox:
        """One sandbox.

        Raises:
            NotFoundError: there is none of this id.
        """
        call = Call("GET", _wire.path("sandboxes", sandbox_id))
        return self._sandbox(_wire.mapping(await self._client.http.request(call)))

    @overload
    async def fork(
        self,
        sandbox_id: str,
        metadata: Mapping[str, str] | None = None,
        *,
        count: None = None,
        idempotency_key: str | None = None,
        cancel: CancelEvent | None = None,
    ) -> AsyncSandbox: ...

    @overload
    async def fork(
        self,
        sandbox_id: str,
        metadata: Mapping[str, str] | None = None,
        *,
        count: int,
        idempotency_key: str | None = None,
        cancel: CancelEvent | None = None,
    ) -> builtins.list[AsyncSandbox]: ...

    async def fork(
        self,
        sandbox_id: str,
        metadata: Mapping[str, str] | None = None,
        *,
        count: int | None = None,
        idempotency_key: str | None = None,
        cancel: CancelEvent | None = None,
    ) -> AsyncSandbox | builtins.list[AsyncSandbox]:
        """A sandbox that goes on from another's memory and disk; with ``count``, a list of that many.

        Raises:
            ForkIncomplete: some of the children could not be made.
        """
        body = _wire.without_none(count=count, metadata=None if metadata is None else dict(metadata))
        children = await self._fork(sandbox_id, "fork", body, count or 1, idempotency_key, cancel)
        return children[0] if count is None else children

    async def fork_tree(
        self,
        sandbox_id: str,
        count: int,
        metadata: Mapping[str, str] | None = None,
        *,
        idempotency_key: str | None = None,
        cancel: CancelEvent | None = None,
    ) -> builtins.list[AsyncSandbox]:
        """Forks that belong together, of which one is later promoted.

        Raises:
            ForkIncomplete: some of the children could not be made.
        """
        body = _wire.without_none(count=count, metadata=None if metadata is None else dict(metadata))
        return await self._fork(sandbox_id, "fork-tree", body, count, idempotency_key, cancel)

    async def promote(
        self, sandbox_id: str, *, cleanup_siblings: bool = False, tree_id: str | None = None
    ) -> Promotion:
        """Make a branch of a fork tree a sandbox of its own, and delete its siblings if wished."""
        call = Call(
            "POST",
            _wire.path("sandboxes", sandbox_id, "promote"),
            json=_wire.without_none(cleanup_siblings=cleanup_siblings, tree_id=tree_id),
            timeout_seconds=CREATE_TIMEOUT_SECONDS,
        )
        return Promotion.from_dict(_wire.mapping(await self._client.http.request(call)))

    async def delete(self, sandbox_id: str) -> None:
        """End a sandbox and all that is in it.

        Raises:
            NotFoundError: there is none of this id.
        """
        call = Call("DELETE", _wire.path("sandboxes", sandbox_id), timeout_seconds=CREATE_TIMEOUT_SECONDS)
        await self._client.http.request(call)

    async def _fork(
        self,
        sandbox_id: str,
        verb: str,
        body: dict[str, Any],
        count: int,
        idempotency_key: str | None,
        cancel: CancelEvent | None,
    ) -> builtins.list[AsyncSandbox]:
        call = Call(
            "POST",
            _wire.path("sandboxes", sandbox_id, verb),
            json=body or None,
            headers=_wire.idempotency(idempotency_key),
            timeout_seconds=CREATE_TIMEOUT_SECONDS,
        )
        answer = await self._client.http.create(call, cancel)
        children = [await self._child(item) for item in _wire.fork_children(answer)]
        failures = _wire.fork_failures(answer)
        if len(children) < count:
            why = "; ".join(sorted(set(failures.values()))) or "the server does not say why"
            raise errors.ForkIncomplete(
                f"{len(children)} of {count} children were made: {why}", children=children, failures=failures
            )
        return children

    async def _child(self, data: Json) -> AsyncSandbox:
        # An answer that only names a child says nothing else of it; nothing is invented here.
        return self._sandbox(data) if "template" in data else await self.get(str(data["id"]))

    def _sandbox(self, data: Json) -> AsyncSandbox:
        return AsyncSandbox.from_dict(data, self._client)
