"""An empty qcow2 image over another disk (QEMU, docs/interop/qcow2.txt, version 3).

Its header names no backing file: QEMU is given the disk below it as a descriptor.
"""

from __future__ import annotations

import struct

CLUSTER_BITS = 16
CLUSTER = 1 << CLUSTER_BITS
ENTRY_BYTES = 8
PER_L1_ENTRY = CLUSTER * CLUSTER // ENTRY_BYTES
"""Bytes of the disk that one table of the second level covers."""
MAX_BYTES = 1 << 50
"""Then the first table has 16 MiB, and one block of reference counts has room for its clusters."""
_MAGIC = b"QFI\xfb"
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_HEAD_OF_OTHERS = struct.Struct(">4s20xQ")


def size_of_qcow2(head: bytes) -> int:
    """Return how large the disk of a qcow2 image is, of which these are the first bytes; raises ValueError."""
    magic, size = _HEAD_OF_OTHERS.unpack_from(head) if len(head) >= _HEAD_OF_OTHERS.size else (b"", 0)
    if magic != _MAGIC:
        raise ValueError("it is not a qcow2 image")
    return int(size)


def overlay(size: int) -> bytes:
    """Return an empty image of that size; raises ValueError. It is to be made longer by zeros: `overlay_bytes`."""
    if not 0 < size <= MAX_BYTES:
        raise ValueError(f"{size} bytes is not the size of a disk")
    entries = -(-size // PER_L1_ENTRY)
    header = _HEADER.pack(
        *(_MAGIC, 3, 0, 0, CLUSTER_BITS, size, 0),
        *(entries, 3 * CLUSTER, CLUSTER, 1, 0, 0),  # the first table; the reference counts; no snapshots
        *(0, 0, 0, 4, _HEADER.size),  # no features; counts of 16 bits
    )
    counts = b"\0\1" * (overlay_bytes(size) // CLUSTER)
    table = struct.pack(">Q", 2 * CLUSTER)
    return b"".join(part.ljust(CLUSTER, b"\0") for part in (header, table, counts))


def overlay_bytes(size: int) -> int:
    """Return how long the file of an empty image is."""
    entries = -(-size // PER_L1_ENTRY)
    return CLUSTER * (3 + -(-entries * ENTRY_BYTES // CLUSTER))
