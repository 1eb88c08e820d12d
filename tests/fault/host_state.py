"""What the platform holds on this host, read from the kernel and the disk and not from the platform's own books."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pandastack import Sandbox
from pandastackd.agent.record import Record
from pandastackd.config import Settings
from pandastackd.disk.layout import DataDir
from pandastackd.network.addresses import HOST_LINK_PREFIX, NAMESPACE_PREFIX, slot_number
from pandastackd.vmm.cgroups import CgroupTree

PATIENCE_SECONDS = 60.0
VMM = "qemu-system-x86"
SUPERVISOR = "pandastack-jail"


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until ``condition`` holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"did not happen: {what}"
        time.sleep(0.1)


def sandbox_pids(sandbox_id: str, name: str) -> list[int]:
    """Pids of the processes called ``name`` in a sandbox's cgroup."""
    return [pid for pid in CgroupTree.open().get(f"sandbox-{sandbox_id}").pids() if _name(pid) == name[:15]]


def sandboxes_on_host() -> set[str]:
    """Ids of the sandboxes that have a cgroup."""
    return {
        name.removeprefix("sandbox-") for name in CgroupTree.open().names() if name.startswith("sandbox-")
    }


def leaks(data_dir: Path, sandboxes: Sequence[Sandbox]) -> list[str]:
    """Whatever is there beyond what the sandboxes that the API lists own, in words; empty when all is well."""
    data = DataDir(data_dir)
    known = {sandbox.id for sandbox in sandboxes}
    running = {sandbox.id for sandbox in sandboxes if sandbox.status in ("running", "paused")}
    found: list[str] = []

    directories = {path.name for path in data.sandboxes.iterdir()}
    found += [f"directory of no sandbox: {name}" for name in sorted(directories - known)]
    found += [f"staging: {path.name}" for path in data.staging.iterdir()]
    found += [f"cgroup: {name}" for name in sorted(sandboxes_on_host() - running)]

    in_cgroups = {pid for name in running for pid in CgroupTree.open().get(f"sandbox-{name}").pids()}
    for process in Path("/proc").iterdir():
        if (
            process.name.isdigit()
            and _is_ours(int(process.name), data_dir)
            and int(process.name) not in in_cgroups
        ):
            found.append(f"process: {process.name} {_name(int(process.name))}")

    used = {record.slot for name in known & directories if (record := Record.load(data.sandbox(name)))} - {
        None
    }
    namespaces = {slot_number(p.name) for p in Path("/run/netns").glob(f"{NAMESPACE_PREFIX}*")}
    links = {slot_number(p.name) for p in Path("/sys/class/net").glob(f"{HOST_LINK_PREFIX}*")}
    if namespaces != links:
        found.append(f"namespaces {namespaces} without links, or links {links} without namespaces")
    if not used <= namespaces:
        found.append(f"slots in use {used} that have no namespace")
    if len(namespaces - used) > Settings().slots_ready:
        found.append(f"namespaces nobody uses: {sorted(map(str, namespaces - used))}")

    mounts = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    found += [f"mount: {where}" for where in mounts if where.startswith(f"{data.host}/")]
    mounted = {slot_number(Path(where).name) for where in mounts if where.startswith("/run/netns/ps-")}
    if not mounted <= namespaces:
        found.append(f"namespaces mounted without a name: {mounted - namespaces}")
    return found


def no_leaks(data_dir: Path, list_sandboxes: Callable[[], Sequence[Sandbox]]) -> None:
    """Assert that nothing has leaked; what is still being cleared away gets its time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while found := leaks(data_dir, list_sandboxes()):
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def _is_ours(pid: int, data_dir: Path) -> bool:
    if _name(pid) not in (VMM[:15], SUPERVISOR[:15]):
        return False
    try:
        return str(data_dir).encode() in Path(f"/proc/{pid}/cmdline").read_bytes() or _name(pid) == VMM[:15]
    except OSError:
        return False


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
