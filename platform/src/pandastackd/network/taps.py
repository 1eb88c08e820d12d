"""Persistent tap devices, made in the namespace of the calling thread.

A tap is owned by the VMM's uid: that user, without any capability, may attach to it and nobody else may.
``IFF_VNET_HDR`` lets the VMM pass checksum and segmentation work through.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

TUN_DEVICE = Path("/dev/net/tun")

IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
TUNSETIFF, TUNSETPERSIST, TUNSETOWNER, TUNSETIFINDEX = 0x4004_54CA, 0x4004_54CB, 0x4004_54CC, 0x4004_54DA


def make_tap(name: str, *, index: int, owner: int) -> None:
    """Make a persistent tap ``name`` with interface index ``index``, for user ``owner``.

    Raises:
        OSError: the name or the index is taken, or there is no ``/dev/net/tun`` (kernel module ``tun``).
    """
    descriptor = os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, TUNSETIFINDEX, struct.pack("=I", index))
        attach(descriptor, name)
        fcntl.ioctl(descriptor, TUNSETOWNER, owner)
        fcntl.ioctl(descriptor, TUNSETPERSIST, 1)
    finally:
        os.close(descriptor)


def attach(descriptor: int, name: str) -> None:
    """Attach an open ``/dev/net/tun`` to the tap ``name`` (made if it does not exist): what a VMM does."""
    request = struct.pack("=16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
    fcntl.ioctl(descriptor, TUNSETIFF, request)
