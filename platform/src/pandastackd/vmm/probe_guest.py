"""The probe's own process: a guest of a dozen bytes, run on KVM in growing loops. Standard library only.

Prints one line of JSON after each loop, ``{"instructions": N, "seconds": S}``, so that a parent that has to
kill it still knows how far it came; ``{"error": "..."}`` when the guest cannot run. Run as a program, never
imported.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import struct
import sys
import time

# Numbers of <linux/kvm.h> for 64-bit hosts.
KVM_GET_API_VERSION = 0xAE00
KVM_CREATE_VM = 0xAE01
KVM_GET_VCPU_MMAP_SIZE = 0xAE04
KVM_CREATE_VCPU = 0xAE41
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_RUN = 0xAE80
KVM_GET_SREGS = 0x8138AE83
KVM_SET_SREGS = 0x4138AE84
KVM_SET_REGS = 0x4090AE82
KVM_EXIT_HLT = 5

API_VERSION = 12
SREGS_BYTES = 312
SELECTOR_OFFSET = 12
EXIT_REASON_OFFSET = 8
MEMORY_BYTES = 0x10000
CODE_ADDRESS = 0x1000

FIRST_TURNS = 10_000
GROWTH = 8
LAST_TURNS = 50_000_000
ENOUGH_SECONDS = 0.02


def loop_code(turns: int) -> bytes:
    """Real-mode code: ``mov ecx, turns``; ``dec ecx``; ``jnz`` back; ``hlt``."""
    return b"\x66\xb9" + struct.pack("<I", turns) + b"\x66\x49\x75\xfc\xf4"


class Guest:
    """One vCPU in real mode on 64 KiB of memory."""

    def __init__(self, device: str) -> None:
        kvm = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        version = fcntl.ioctl(kvm, KVM_GET_API_VERSION)
        if version != API_VERSION:
            raise OSError(0, f"its API version is {version}, not {API_VERSION}")
        vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
        self._memory = mmap.mmap(-1, MEMORY_BYTES)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        region = struct.pack("<IIQQQ", 0, 0, 0, MEMORY_BYTES, address)
        fcntl.ioctl(vm, KVM_SET_USER_MEMORY_REGION, region)
        self._vcpu = fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)
        self._run = mmap.mmap(self._vcpu, fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0))

    def seconds_for(self, turns: int) -> float:
        """Run the loop ``turns`` times around and say how long that took."""
        code = loop_code(turns)
        self._memory[CODE_ADDRESS : CODE_ADDRESS + len(code)] = code
        sregs = bytearray(SREGS_BYTES)
        fcntl.ioctl(self._vcpu, KVM_GET_SREGS, sregs)
        struct.pack_into("<Q", sregs, 0, 0)
        struct.pack_into("<H", sregs, SELECTOR_OFFSET, 0)
        fcntl.ioctl(self._vcpu, KVM_SET_SREGS, bytes(sregs))
        # 16 general registers, then rip and rflags, of which bit 1 is always set.
        fcntl.ioctl(self._vcpu, KVM_SET_REGS, struct.pack("<18Q", *[0] * 16, CODE_ADDRESS, 2))
        begun = time.perf_counter()
        fcntl.ioctl(self._vcpu, KVM_RUN, 0)
        seconds = time.perf_counter() - begun
        (reason,) = struct.unpack_from("<I", self._run, EXIT_REASON_OFFSET)
        if reason != KVM_EXIT_HLT:
            raise OSError(0, f"the guest left for reason {reason} instead of halting")
        return seconds


def main(device: str) -> None:
    """Run longer and longer loops until one takes long enough to be measured."""
    try:
        guest = Guest(device)
        turns = FIRST_TURNS
        while True:
            seconds = guest.seconds_for(turns)
            print(json.dumps({"instructions": 2 * turns, "seconds": seconds}), flush=True)
            if seconds >= ENOUGH_SECONDS or turns >= LAST_TURNS:
                return
            turns = min(turns * GROWTH, LAST_TURNS)
    except OSError as error:
        print(json.dumps({"error": error.strerror or str(error)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
