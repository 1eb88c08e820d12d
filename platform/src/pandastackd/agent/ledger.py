"""Memory admission: what this host has promised its guests, decided before anything is created.

A restored guest shares its snapshot's page cache and owns only what it writes, so promising every guest's full size
would leave most of the host unused; promising by measured use alone would be surprised by a guest that grows. Both are
asked: the promises (guest memory ÷ overcommit + the VMM's own cost) must fit the host's memory less its
reserve, and what the kernel says is available now must cover the newcomer's promise. A cgroup limit holds each
guest to its own size.
"""

from __future__ import annotations

from pathlib import Path

from pandastackd.errors import InsufficientStorage

VMM_COST_MIB = 96
"""Private memory of one VMM process besides its guest (measured: about 75 MiB under software emulation, less on
KVM).
"""


class MemoryLedger:
    """Promises of guest memory on one host, in MiB.

    Args:
        overcommit: how many times the host's memory may be promised.
        reserve_mib: memory never promised.
    """

    def __init__(self, overcommit: float, reserve_mib: int, *, meminfo: Path = Path("/proc/meminfo")) -> None:
        self._overcommit = overcommit
        self._reserve_mib = reserve_mib
        self._meminfo = meminfo
        self._promises: dict[str, float] = {}

    @property
    def promised_mib(self) -> int:
        """The sum of all promises."""
        return round(sum(self._promises.values()))

    @property
    def total_mib(self) -> int:
        """The host's memory."""
        return self._read("MemTotal")

    @property
    def free_mib(self) -> int:
        """What can be promised now: neither the promises nor the memory at hand may run out. Never negative."""
        unpromised = self.total_mib - self._reserve_mib - self.promised_mib
        at_hand = self._read("MemAvailable") - self._reserve_mib
        return max(0, min(unpromised, at_hand))

    def cost_mib(self, memory_mib: int) -> float:
        """What a guest of ``memory_mib`` adds to the promises."""
        return memory_mib / self._overcommit + VMM_COST_MIB

    def promise(self, sandbox_id: str, memory_mib: int) -> None:
        """Promise a guest its memory, or refuse.

        Raises:
            InsufficientStorage: it does not fit; says what would be needed and what is free.
        """
        cost = self.cost_mib(memory_mib)
        free = self.free_mib
        if cost > free:
            raise InsufficientStorage(
                f"insufficient host memory for sandbox: a {memory_mib} MiB guest needs {round(cost)} MiB here, "
                f"{free} MiB can be promised; delete or hibernate a sandbox, or add memory",
                code="insufficient_memory",
            )
        self._promises[sandbox_id] = cost

    def keep(self, sandbox_id: str, memory_mib: int) -> None:
        """Record the promise of a guest that already runs (adoption): it cannot be refused any more."""
        self._promises[sandbox_id] = self.cost_mib(memory_mib)

    def release(self, sandbox_id: str) -> None:
        """Take a promise back; nothing happens when there was none."""
        self._promises.pop(sandbox_id, None)

    def _read(self, name: str) -> int:
        for line in self._meminfo.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) // 1024
        raise RuntimeError(f"{self._meminfo} has no {name}")
