"""Checks of the machine itself: who we are, what runs here, memory, cgroups, time."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import time
from pathlib import Path

from pandastackd.config import Settings
from pandastackd.doctor.finding import Finding, fail, ok, warn
from pandastackd.vmm.cgroups import CgroupTree, Limits

SUPPORTED = {("debian", "12"), ("debian", "13"), ("ubuntu", "22.04"), ("ubuntu", "24.04")}
LEAST_KERNEL = (5, 10)
TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "losetup": "mount",
    "nft": "nftables",
    "zstd": "zstd",
    "lz4": "lz4",
    "xz": "xz-utils",
    "depmod": "kmod",
}
_LEAST_GUEST_MIB = 1024
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronized
_TIMEX_BYTES = 512  # more than struct timex has on any ABI
_RELEASED = 1_735_689_600  # 2025-01-01: an earlier clock is certainly wrong


def privilege(_: Settings) -> Finding:
    """Whether we may make namespaces, mounts and taps."""
    if os.geteuid() == 0:
        return ok("privilege", "runs as root, which the host agent needs; VMMs themselves run as other users")
    return fail("privilege", "not root: the host agent cannot make VMs", "run it with sudo")


def system(_: Settings) -> Finding:
    """Distribution and architecture."""
    release = platform.freedesktop_os_release()
    name = release.get("PRETTY_NAME", "unknown")
    if platform.machine() != "x86_64":
        return fail("system", f"{platform.machine()}: only x86_64 is supported", "use an x86_64 machine")
    if (release.get("ID", ""), release.get("VERSION_ID", "")) in SUPPORTED:
        return ok("system", f"{name}, x86_64")
    return warn(
        "system",
        f"{name} is not one of the systems this is tested on",
        "use Debian 12 or 13, or Ubuntu 22.04 or 24.04, if something does not work",
    )


def kernel(_: Settings) -> Finding:
    """The host's kernel version."""
    release = platform.release()
    found = re.match(r"(\d+)\.(\d+)", release)
    if found and (int(found[1]), int(found[2])) >= LEAST_KERNEL:
        return ok("kernel", f"Linux {release}")
    least = ".".join(map(str, LEAST_KERNEL))
    return fail("kernel", f"Linux {release} is older than {least}", f"boot a kernel of {least} or newer")


def tools(_: Settings) -> Finding:
    """Programs that building templates and slots needs."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if not missing:
        return ok("tools", f"all there: {', '.join(TOOLS)}")
    packages = " ".join(sorted({TOOLS[tool] for tool in missing}))
    return fail("tools", f"missing: {', '.join(missing)}", f"`make setup`, or `apt-get install {packages}`")


def memory(settings: Settings) -> Finding:
    """Memory that can be promised to guests."""
    info = _meminfo()
    total, available = info["MemTotal"], info["MemAvailable"]
    spare = available - settings.memory_reserve_mib
    seen = f"{total} MiB, {available} MiB available, {settings.memory_reserve_mib} MiB kept in reserve"
    if spare < _LEAST_GUEST_MIB:
        return fail(
            "memory",
            f"{seen}: {max(spare, 0)} MiB are left for guests, and building a template needs"
            f" {_LEAST_GUEST_MIB}",
            "free memory, use a larger machine, or lower PANDASTACK_MEMORY_RESERVE_MIB",
        )
    return ok("memory", f"{seen}: {spare} MiB can be promised to guests")


def swap(_: Settings) -> Finding:
    """Whether guests' memory may end up on the host's swap device."""
    total = _meminfo().get("SwapTotal", 0)
    if total == 0:
        return ok("swap", "off: guests' memory stays in memory")
    return warn(
        "swap",
        f"{total} MiB of swap: guests' memory, and secrets in it, may be written to disk, and a full host"
        " turns slow",
        "`swapoff -a` on a host for other people's code",
    )


def cgroups(_: Settings) -> Finding:
    """Whether a VMM can be limited: a cgroup with limits is made, and removed, as the agent makes them."""
    tree = CgroupTree.open(f"pandastack-doctor-{os.getpid()}")
    try:
        trial = tree.create("trial", Limits(memory_bytes=64 << 20, cpus=0.5, processes=8))
        legacy = any(path.name == "tasks" for path in trial.join_files)
        trial.remove()
    finally:
        tree.remove()
    if legacy:
        return warn(
            "cgroups",
            "limits for CPU, memory, processes and I/O can be set, by cgroups v1, slower than v2",
            "boot with systemd.unified_cgroup_hierarchy=1 for production",
        )
    return ok("cgroups", "limits for CPU, memory, processes and I/O can be set, by cgroups v2")


def clock(_: Settings) -> Finding:
    """Whether the host's clock can be trusted: every sandbox gets its time from it."""
    if time.time() < _RELEASED:
        return fail(
            "clock", "the clock is years behind: certificates fail in sandboxes", "set the clock, use NTP"
        )
    source = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource").read_text().strip()
    if source not in {"tsc", "kvm-clock", "hyperv_clocksource_tsc_page"}:
        return warn("clock", f"clock source {source} is slow to read", "use a host whose TSC is stable")
    if ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)) == _TIME_ERROR:
        return warn(
            "clock",
            f"clock source {source}; the kernel says that the clock is not synchronized, and sandboxes"
            " take it over",
            "run chrony or systemd-timesyncd, unless the hypervisor keeps this clock right",
        )
    return ok("clock", f"clock source {source}, synchronized")


def fuse(_: Settings) -> Finding:
    """FUSE: nothing in this version needs it."""
    return ok("fuse", f"{_presence('/dev/fuse')}; this version does not need it")


def userfaultfd(_: Settings) -> Finding:
    """userfaultfd: nothing in this version needs it."""
    return ok("userfaultfd", f"{_presence('/dev/userfaultfd')}; this version does not need it")


def _presence(device: str) -> str:
    return f"{device} is {'there' if Path(device).exists() else 'not there'}"


def _meminfo() -> dict[str, int]:
    """/proc/meminfo in MiB."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) // 1024 for words in lines if len(words) > 1}
