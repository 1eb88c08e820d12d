"""Network namespaces: make, name, enter, remove.

Rule: a thread that enters another namespace never comes back to a pool. Every entry here runs in a thread of
its own that ends with the call, so no failure can leave a shared thread in a foreign namespace. Such a thread
costs about a tenth of a millisecond.

Names live in ``/run/netns`` exactly as iproute2 keeps them: a file each, with the namespace bind-mounted on
it, below a mount point with shared propagation, so that removing a name here also removes it from every copy
of the mount table.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

NETNS_DIR = Path("/run/netns")
OWN_NETNS = Path("/proc/thread-self/ns/net")

_CLONE_NEWNET = 0x4000_0000
_MS_BIND, _MS_REC, _MS_SHARED = 0x1000, 0x4000, 0x10_0000
_MNT_DETACH = 2
_NS_GET_NSTYPE = 0xB703

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p,) * 3 + (ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.unshare.argtypes = (ctypes.c_int,)


def _check(result: int, doing: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot {doing}: {os.strerror(code)}")


def leave_for_new_namespace() -> None:
    """Put the *calling thread* into a new, empty network namespace. Only for threads that then end.

    Raises:
        OSError: not root, or the kernel refuses.
    """
    _check(_libc.unshare(_CLONE_NEWNET), "make a network namespace")


def enter(namespace: int) -> None:
    """Put the *calling thread* into the namespace behind a file descriptor. Only for threads that then end.

    Raises:
        OSError: not a network namespace, or not permitted.
    """
    _check(_libc.setns(namespace, _CLONE_NEWNET), "enter a network namespace")


def open_namespace(path: Path) -> int:
    """A file descriptor of the namespace at ``path``; the caller closes it.

    Raises:
        OSError: there is no file, or (ENOTTY, EINVAL) the file is not a network namespace.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        kind = fcntl.ioctl(descriptor, _NS_GET_NSTYPE)
    except OSError:
        os.close(descriptor)
        raise
    if kind != _CLONE_NEWNET:
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"{path} is a namespace of another kind")
    return descriptor


def is_namespace(path: Path) -> bool:
    """Whether ``path`` is a live network namespace, not merely the file a half-made one left."""
    try:
        os.close(open_namespace(path))
    except OSError:
        return False
    return True


def ensure_directory(directory: Path = NETNS_DIR) -> None:
    """Make the directory of names a mount point with shared propagation, as iproute2 does. Idempotent."""
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    target = os.fsencode(directory)
    if _libc.mount(b"none", target, b"none", _MS_SHARED | _MS_REC, None) == 0:
        return
    if ctypes.get_errno() != errno.EINVAL:  # EINVAL: not a mount point yet
        _check(-1, f"share {directory}")
    _check(_libc.mount(target, target, b"none", _MS_BIND | _MS_REC, None), f"mount {directory}")
    _check(_libc.mount(b"none", target, b"none", _MS_SHARED | _MS_REC, None), f"share {directory}")


def publish(path: Path) -> None:
    """Give the calling thread's namespace the name ``path``; from then on it outlives the thread.

    Raises:
        OSError: the name is taken, or the mount is refused. Nothing is left then.
    """
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    try:
        own = os.fsencode(f"/proc/self/task/{threading.get_native_id()}/ns/net")
        _check(_libc.mount(own, os.fsencode(path), b"none", _MS_BIND, None), f"name a namespace {path}")
    except OSError:
        path.unlink()
        raise


def remove(path: Path) -> None:
    """Take the name ``path`` away; the namespace goes with its last process. Idempotent.

    Raises:
        OSError: neither unmounting nor unlinking works.
    """
    while _libc.umount2(os.fsencode(path), _MNT_DETACH) == 0:
        pass  # several mounts can be stacked on one name
    code = ctypes.get_errno()
    if code not in (errno.EINVAL, errno.ENOENT):
        raise OSError(code, f"cannot unmount {path}: {os.strerror(code)}")
    path.unlink(missing_ok=True)


def run_in_thread(function: Callable[[], T]) -> T:
    """Run ``function`` in a thread that ends with it; block for the result."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            outcome.append(function())
        except BaseException as error:  # noqa: BLE001  handed to the caller, whatever it is
            failure.append(error)

    thread = threading.Thread(target=body, name="network", daemon=True)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


async def in_thread(function: Callable[[], T], discard: Callable[[T], object] | None = None) -> T:
    """Run ``function`` in a thread that ends with it, off the event loop.

    Args:
        function: what to run; it is not interrupted when the waiting task is cancelled.
        discard: given the result when nobody waits for it any more.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def deliver(result: T | None, error: BaseException | None) -> None:
        if not future.done():
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]  # None only where T is None
        elif error is None and discard is not None:
            discard(result)  # type: ignore[arg-type]

    def body() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = function()
        except BaseException as raised:  # noqa: BLE001  handed to the caller, whatever it is
            error = raised
        try:
            loop.call_soon_threadsafe(deliver, result, error)
        except RuntimeError:  # the loop has closed
            if error is None and discard is not None:
                discard(result)  # type: ignore[arg-type]

    threading.Thread(target=body, name="network", daemon=True).start()
    return await future


def entered(path: Path, function: Callable[[], T]) -> Callable[[], T]:
    """``function``, to be run in a thread that enters the namespace at ``path`` and then ends."""

    def inside() -> T:
        descriptor = open_namespace(path)
        try:
            enter(descriptor)
        finally:
            os.close(descriptor)
        return function()

    return inside


def run_in(path: Path, function: Callable[[], T]) -> T:
    """Run ``function`` inside the namespace at ``path``; block for the result.

    Raises:
        OSError: there is no such namespace; or whatever ``function`` raises.
    """
    return run_in_thread(entered(path, function))


async def open_in(path: Path, function: Callable[[], T], discard: Callable[[T], object] | None = None) -> T:
    """Run ``function`` inside the namespace at ``path`` and hand its result out; what it opens stays there.

    A socket or descriptor belongs for ever to the namespace it was opened in, so it can then be used from
    anywhere.

    Args:
        path: the namespace.
        function: quick and blocking: a few system calls.
        discard: closes the result if the waiting task was cancelled meanwhile.

    Raises:
        OSError: there is no such namespace; or whatever ``function`` raises.
    """
    return await in_thread(entered(path, function), discard)


def names(directory: Path = NETNS_DIR) -> list[str]:
    """Every name in the directory, whether a namespace is mounted on it or not."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(entry.name for entry in directory.iterdir())
    return []
