"""The host's time-stamp counter, measured.

An emulated machine shows its guest the host's counter and nothing to calibrate it against, so the guest's
kernel has to be told its frequency; what is told wrong becomes drift of the guest's clock.
"""

from __future__ import annotations

import ctypes
import mmap
import time

# rdtsc; shl rdx, 32; or rax, rdx; ret
_READ_COUNTER = b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\xc3"
_SAMPLE_SECONDS = 0.02
_SAMPLES = 5


def measure_tsc_khz() -> int:
    """Frequency of the counter in kHz, true to a few parts in a million. x86-64 only; blocks for 0.1 s."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(_READ_COUNTER)
    code = ctypes.c_char.from_buffer(page)
    counter = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(code))
    begun = _read(counter)
    rates = []
    for _ in range(_SAMPLES):
        time.sleep(_SAMPLE_SECONDS)
        now = _read(counter)
        rates.append((now[1] - begun[1]) * 1e6 / (now[0] - begun[0]))
    # The longest sample is the best one; the others are there so that one interruption cannot spoil it
    # unseen.
    del counter, code
    page.close()
    return round(rates[-1])


def _read(counter: ctypes._CFunctionType) -> tuple[int, int]:
    """Nanoseconds and ticks at the same instant: of several tries the one that took least time in between."""

    def sample() -> tuple[int, int, int]:
        before = time.monotonic_ns()
        ticks = int(counter())
        after = time.monotonic_ns()
        return after - before, (before + after) // 2, ticks

    _, nanoseconds, ticks = min(sample() for _ in range(10))
    return nanoseconds, ticks
