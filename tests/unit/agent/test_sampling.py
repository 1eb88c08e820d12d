"""What sandboxes used: points in order, bounded, and of those alone that run. Needs nothing."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pandastackd.agent.sampling import KEPT, Sampler
from pandastackd.agent.sandbox import Sandbox
from pandastackd.errors import GuestUnreachable, VmmFailed
from pandastackd.guest.types import Usage
from pandastackd.lifecycle import State
from pandastackd.vmm.processes import process_usage

pytestmark = pytest.mark.anyio


@dataclass
class Fake:
    """As much of a sandbox as is looked at."""

    id: str = "a"
    state: State = State.RUNNING
    silent: bool = False
    asked: int = 0
    pid: int = field(default_factory=os.getpid)

    @property
    def record(self) -> Any:
        return SimpleNamespace(state=self.state)

    def machine(self) -> Any:
        return SimpleNamespace(pid=self.pid)

    def guest(self) -> Any:
        return self

    async def usage(self) -> Usage:
        self.asked += 1
        if self.silent:
            raise GuestUnreachable("no answer")
        return Usage(-5, 1, 12.5, self.asked, 512, 50, 1000, 4000)


def sampler(*fakes: Fake) -> tuple[Sampler, dict[str, Sandbox]]:
    sandboxes = {fake.id: cast("Sandbox", fake) for fake in fakes}
    return Sampler(sandboxes, 0), sandboxes


async def test_the_past_is_bounded_in_order_and_ends_with_now() -> None:
    fake = Fake()
    sampled, sandboxes = sampler(fake)
    for _ in range(KEPT + 5):
        await sampled.round()
    points = await sampled.history(sandboxes["a"])
    assert [point.memory_used for point in points] == list(range(6, KEPT + 7))
    assert abs(points[-1].time - time.time()) < 5, "by the host's clock, whatever the guest says"


async def test_those_that_sleep_or_are_silent_are_left_alone_and_keep_their_past() -> None:
    asleep, silent = Fake("asleep"), Fake("silent")
    sampled, sandboxes = sampler(asleep, silent)
    await sampled.round()
    asleep.state, silent.silent = State.HIBERNATED, True
    await sampled.round()
    assert asleep.asked == 1
    assert len(await sampled.history(sandboxes["asleep"])) == 1
    assert len(await sampled.history(sandboxes["silent"])) == 1


async def test_what_is_gone_is_forgotten() -> None:
    fake = Fake()
    sampled, sandboxes = sampler(fake)
    await sampled.round()
    del sandboxes["a"]
    await sampled.round()
    fake.state = State.HIBERNATED
    assert await sampled.history(cast("Sandbox", fake)) == []


async def test_a_machine_is_a_process_of_the_host() -> None:
    sampled, sandboxes = sampler(Fake())
    used = sampled.machine(sandboxes["a"])
    assert used.pid == os.getpid()
    assert used.uptime_seconds > 0
    assert used.cpu_percent >= 0
    assert 1 << 20 < used.rss_bytes < used.vsz_bytes
    assert used.threads >= 1
    with pytest.raises(VmmFailed, match="gone"):
        process_usage(2**22 + 1)
