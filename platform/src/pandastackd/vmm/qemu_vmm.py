"""One running QEMU: commands go over QMP, its life is watched through a pidfd."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from pandastackd.errors import Conflict, VmmFailed
from pandastackd.vmm.console import tail
from pandastackd.vmm.driver import Enclosure, MemoryMapping, VmmExit, VmmTiming
from pandastackd.vmm.jail import Jailed, JailHome
from pandastackd.vmm.memory_map import find_mapping
from pandastackd.vmm.processes import WatchedProcess
from pandastackd.vmm.qemu_command import FIRST_FREE_SET
from pandastackd.vmm.qmp import JsonObject, QmpClient, QmpClosed, QmpError

_CONNECT_SECONDS = 20.0
_LOAD_SECONDS = 60.0
_SUPERVISOR_SECONDS = 2.0
_STOP_SECONDS = 10.0
_STATE_NAME = "state"
_SHOWN_LINES = 40


class QemuVmm:
    """A :class:`~pandastackd.vmm.driver.Vmm`. Made by :meth:`attach`; :meth:`stop` or :meth:`detach` lets go
    of it."""

    def __init__(
        self, enclosure: Enclosure, process: WatchedProcess, supervisor: WatchedProcess | None, qmp: QmpClient
    ) -> None:
        self._enclosure = enclosure
        self._home = JailHome(enclosure.home)
        self._process = process
        self._supervisor = supervisor
        self._qmp = qmp
        self._timing = VmmTiming()

    @classmethod
    async def attach(cls, enclosure: Enclosure, jailed: Jailed) -> QemuVmm | None:
        """Take hold of the processes of a jail; ``None`` when QEMU has ended.

        Raises:
            VmmFailed: it lives but does not answer.
        """
        process = WatchedProcess.open(jailed.process)
        if process is None:
            return None
        supervisor = WatchedProcess.open(jailed.supervisor)
        try:
            qmp = await QmpClient.connect(JailHome(enclosure.home).qmp, timeout_seconds=_CONNECT_SECONDS)
        except BaseException as error:
            # The socket is closed a moment before the process is gone.
            with suppress(TimeoutError):
                async with asyncio.timeout(_SUPERVISOR_SECONDS if isinstance(error, QmpClosed) else 0):
                    await process.wait()
            ended = process.ended
            process.close()
            if supervisor is not None:
                supervisor.close()
            if isinstance(error, QmpError):
                if ended:
                    return None
                raise VmmFailed(
                    f"QEMU (pid {jailed.process.pid}) runs but does not answer: {error}"
                ) from error
            raise
        return cls(enclosure, process, supervisor, qmp)

    @property
    def pid(self) -> int:
        """Process id of QEMU on the host."""
        return self._process.identity.pid

    @property
    def timing(self) -> VmmTiming:
        """How long start and load took."""
        return self._timing

    def started(self, since: float) -> None:
        """Note that the start, begun at ``time.perf_counter()`` value ``since``, is over."""
        self._timing = VmmTiming(start_ms=(time.perf_counter() - since) * 1e3)

    async def load_device_state(self, state: Path) -> None:
        """Load what :meth:`save_device_state` wrote; the guest stays paused.

        Raises:
            VmmFailed: QEMU refuses it; says why.
        """
        begun = time.perf_counter()
        await self._execute(
            "migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": True}]}
        )
        fd = _open(state, os.O_RDONLY)
        try:
            await self._execute("getfd", {"fdname": _STATE_NAME}, fds=(fd,))
        finally:
            os.close(fd)
        with self._qmp.events("MIGRATION") as events:
            await self._execute("migrate-incoming", {"uri": f"fd:{_STATE_NAME}"})
            await self._loaded(events)
        self._timing = VmmTiming(self._timing.start_ms, (time.perf_counter() - begun) * 1e3)

    async def resume(self) -> None:
        """Let the guest run."""
        await self._execute("cont")

    async def pause(self) -> None:
        """Freeze the guest."""
        await self._execute("stop")

    async def save_device_state(self, path: Path) -> None:
        """Write everything but RAM and disk to a new file.

        Raises:
            Conflict: the guest runs; what was saved would not match its memory and disk.
            VmmFailed: QEMU could not; ``path`` is not there then.
        """
        status = await self._execute("query-status")
        if not isinstance(status, dict) or status.get("running") is not False:
            raise Conflict("the machine runs; pause it before its state is saved", code="not_paused")
        # QEMU may not write anywhere: it is handed the file. Write-only, as QEMU asks for it.
        fd = _open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            added = await self._execute("add-fd", {"fdset-id": FIRST_FREE_SET}, fds=(fd,))
            try:
                await self._execute(
                    "xen-save-devices-state", {"filename": f"/dev/fdset/{FIRST_FREE_SET}", "live": False}
                )
            finally:
                with suppress(VmmFailed):
                    await self._execute("remove-fd", {"fdset-id": FIRST_FREE_SET, "fd": added["fd"]})
        except BaseException:
            await asyncio.to_thread(path.unlink, missing_ok=True)
            raise
        finally:
            os.close(fd)

    async def stop(self) -> None:
        """Kill QEMU and wait until it and its supervisor are gone. Idempotent.

        Raises:
            VmmFailed: it does not die.
        """
        self._process.kill()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self._process.wait()
        except TimeoutError as error:
            raise VmmFailed(
                f"QEMU (pid {self.pid}) does not die; it waits inside the kernel: see `dmesg`",
                code="process_stuck",
            ) from error
        await self._supervisor_ended()
        await self.detach()

    async def detach(self) -> None:
        """Let go of QEMU, which lives on; this object is of no more use then. Idempotent."""
        await self._qmp.close()
        if self._supervisor is not None:
            self._supervisor.close()
        self._process.close()

    async def wait(self) -> VmmExit:
        """Wait for the end and say how it came."""
        await self._process.wait()
        await self._supervisor_ended()
        return self._home.read_exit()

    def console_tail(self, lines: int = _SHOWN_LINES) -> str:
        """The end of the console."""
        return tail(self._home.console, lines)

    def memory_mapping(self) -> MemoryMapping:
        """Where guest RAM is mapped."""
        return find_mapping(self.pid, self._enclosure.memory)

    async def _supervisor_ended(self) -> None:
        """The supervisor writes down how QEMU ended, then ends: a moment later than QEMU."""
        if self._supervisor is None or self._supervisor.ended:
            return
        try:
            async with asyncio.timeout(_SUPERVISOR_SECONDS):
                await self._supervisor.wait()
        except TimeoutError:
            self._supervisor.kill()

    async def _loaded(self, events: asyncio.Queue[JsonObject | None]) -> None:
        try:
            async with asyncio.timeout(_LOAD_SECONDS):
                while (event := await events.get()) is not None:
                    if event.get("status") == "completed":
                        return
                    if event.get("status") == "failed":
                        break
        except TimeoutError as error:
            raise VmmFailed(f"QEMU did not load the state within {_LOAD_SECONDS:g} s") from error
        # QEMU ends after a failed load; wait, so that what it said is there to be shown.
        with suppress(TimeoutError):
            async with asyncio.timeout(_SUPERVISOR_SECONDS):
                await self.wait()
        raise VmmFailed(
            f"QEMU refused the saved state: {self._home.complaint() or 'it gave no reason'}",
            code="state_refused",
        )

    async def _execute(
        self, command: str, arguments: JsonObject | None = None, *, fds: tuple[int, ...] = ()
    ) -> Any:
        try:
            return await self._qmp.execute(command, arguments, fds=fds)
        except QmpClosed as error:
            with suppress(TimeoutError):
                async with asyncio.timeout(_SUPERVISOR_SECONDS):
                    end = await self.wait()
                    complaint = self._home.complaint()
                    raise VmmFailed(
                        f"QEMU has ended ({end}){': ' + complaint if complaint else ''}",
                        console_tail=self.console_tail(),
                        code="vmm_ended",
                    ) from error
            raise VmmFailed(f"{error}, though it runs", console_tail=self.console_tail()) from error
        except QmpError as error:
            raise VmmFailed(f"QEMU refused {command}: {error}", console_tail=self.console_tail()) from error


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise VmmFailed(
            f"cannot open the device state {path}: {error.strerror}", code="state_file"
        ) from error
