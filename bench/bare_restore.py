"""Restoring a snapshot by hand: QEMU, a device state and one ping, with no platform around it.

The yardstick of ``bench/create``: the same snapshot files, the same QEMU arguments, the same host, but no jail,
no cgroup, no slot, no record, no API. Needs root. Every lane has a network namespace of its own, since all
guests have the same address.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import itertools
import json
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from pandastackd.disk.reflink import clone
from pandastackd.network.addresses import CONTROL_AGENT_PORT, CONTROL_HOST_MAC, DATA_HOST_MAC
from pandastackd.vmm import qemu_command
from pandastackd.vmm.driver import Machine

GUEST = "169.254.77.2"
HOST_INTERFACE = "169.254.77.1"
PING_DEADLINE_SECONDS = 10.0

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_CLONE_NEWNET = 0x4000_0000
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class BareSnapshot:
    """The files and the size of what is restored."""

    directory: Path
    vcpus: int
    memory_mib: int
    accelerator: qemu_command.Accelerator


class Lane:
    """One thread's place to restore in: a network namespace with two taps, and a scratch folder for the disk.

    Args:
        scratch: a folder on the file system of the snapshot, so that the disk can be cloned.
    """

    def __init__(self, snapshot: BareSnapshot, scratch: Path) -> None:
        self._snapshot = snapshot
        self._scratch = scratch
        self._names = itertools.count()
        self._taps: list[int] = []
        self._netns = -1
        worker = threading.Thread(target=self._make_namespace)
        worker.start()
        worker.join()
        if self._netns < 0:
            raise RuntimeError("could not make a network namespace for the bare restore")

    def close(self) -> None:
        """Give the namespace and its taps back."""
        for descriptor in (*self._taps, self._netns):
            os.close(descriptor)

    def restore_and_ping(self) -> float:
        """Restore, wait for the guest agent's answer to one request, end it; milliseconds up to the answer."""
        directory = self._scratch / f"bare-{threading.get_native_id()}-{next(self._names)}"
        directory.mkdir()
        began = time.perf_counter()
        process: subprocess.Popen[bytes] | None = None
        try:
            clone(self._snapshot.directory / "disk", directory / "disk")
            process, qmp = self._start_qemu(directory)
            self._load(qmp)
            self._ping()
            return (time.perf_counter() - began) * 1e3
        finally:
            if process is not None:
                process.kill()
                process.wait()
            shutil.rmtree(directory)

    def _start_qemu(self, directory: Path) -> tuple[subprocess.Popen[bytes], socket.socket]:
        snapshot = self._snapshot
        ours, theirs = socket.socketpair()
        arguments = qemu_command.arguments(
            Machine(snapshot.vcpus, snapshot.memory_mib),
            snapshot.accelerator,
            memory_shared=False,
            boot_cmdline=None,
        )
        disk = os.open(directory / "disk", os.O_RDWR)
        fixed = {
            qemu_command.DATA_TAP_FD: self._taps[0],
            qemu_command.CONTROL_TAP_FD: self._taps[1],
            qemu_command.QMP_FD: theirs.fileno(),
            qemu_command.DISK_FD: disk,
        }
        # A connected pair instead of a listening socket, and the memory file under its own name: there is no
        # jail to hide it.
        words = [
            word.replace(qemu_command.MEMORY_NAME, str(snapshot.directory / "memory")).replace(
                ",server=on,wait=off", ""
            )
            for word in arguments
        ]
        # Moved out of the way first: a descriptor may already have a number that another one has to get.
        high = {target: fcntl.fcntl(source, fcntl.F_DUPFD, 100) for target, source in fixed.items()}

        def place() -> None:
            for target, source in high.items():
                os.dup2(source, target, inheritable=True)

        try:
            process = subprocess.Popen(
                ["qemu-system-x86_64", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                preexec_fn=place,
                pass_fds=tuple(fixed),
            )
        finally:
            theirs.close()
            for descriptor in (disk, *high.values()):
                os.close(descriptor)
        return process, ours

    def _load(self, qmp: socket.socket) -> None:
        with qmp, qmp.makefile("r") as replies, (self._snapshot.directory / "state").open("rb") as state:
            replies.readline()
            _ask(qmp, replies, "qmp_capabilities")
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [state.fileno()]))]
            _ask(qmp, replies, "getfd", {"fdname": "state"}, rights)
            _ask(qmp, replies, "migrate-incoming", {"uri": "fd:state"})
            while (status := _ask(qmp, replies, "query-migrate").get("status")) != "completed":
                if status == "failed":
                    raise RuntimeError("QEMU refused the device state")
            _ask(qmp, replies, "cont")

    def _ping(self) -> None:
        deadline = time.monotonic() + PING_DEADLINE_SECONDS
        while time.monotonic() < deadline:
            with suppress(OSError), self._socket() as connection:
                connection.settimeout(1)
                connection.connect((GUEST, CONTROL_AGENT_PORT))
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n")
                if connection.recv(64).startswith(b"HTTP/1.1 204"):
                    return
        raise RuntimeError("the bare guest did not answer")

    def _socket(self) -> socket.socket:
        made: list[socket.socket] = []

        def inside() -> None:
            _enter(self._netns)
            made.append(socket.socket())

        worker = threading.Thread(target=inside)
        worker.start()
        worker.join()
        return made[0]

    def _make_namespace(self) -> None:
        """In a thread of its own, which then ends: a thread that changed namespace is of no further use."""
        if _libc.unshare(_CLONE_NEWNET) != 0:
            return
        for name in ("tap0", "ctl0"):
            tap = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
            request = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
            fcntl.ioctl(tap, _TUNSETIFF, request)
            self._taps.append(tap)
        with IPRoute() as route:
            # The addresses that the guest has in its neighbour cache since it was baked.
            for name, mac in (("tap0", DATA_HOST_MAC), ("ctl0", CONTROL_HOST_MAC)):
                route.link("set", index=route.link_lookup(ifname=name)[0], address=mac, state="up")
            control = route.link_lookup(ifname="ctl0")[0]
            route.addr("add", index=control, address=HOST_INTERFACE, prefixlen=30)
        self._netns = os.open(
            f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY | os.O_CLOEXEC
        )


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "cannot enter the network namespace")


def _ask(
    qmp: socket.socket,
    replies: Any,
    command: str,
    arguments: dict[str, Any] | None = None,
    ancillary: list[tuple[int, int, array.array[int]]] | None = None,
) -> dict[str, Any]:
    request = {"execute": command, "arguments": arguments or {}}
    qmp.sendmsg([json.dumps(request).encode()], ancillary or [])
    while True:
        reply = json.loads(replies.readline())
        if "error" in reply:
            raise RuntimeError(f"{command}: {reply['error']['desc']}")
        if "return" in reply:
            answer: dict[str, Any] = reply["return"]
            return answer
