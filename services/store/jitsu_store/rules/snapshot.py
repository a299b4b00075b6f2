"""All leaves of one commit in one file, so that a store with thousands of VMs starts at once.

Git keeps a tree and a blob for each key: to read 120,000 leaves takes seconds. A store that finds a snapshot reads only
what differs between its commit and the head. It is a copy: one that is damaged, or of a commit that is not there, is
ignored. The file is a line that names its format, the CRC-32 of the rest, and msgpack: commit, count of leaves, leaves.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import msgpack

from jitsu_store.git.objects import ID_BYTES, Id
from jitsu_store.rules.tree import LeafTree

HEAD = b"jitsu-snapshot 1\n"
MAX_SNAPSHOT_LEAVES = 300_000
"""Its writer has bounded memory."""


@dataclass(frozen=True)
class Snapshot:
    """The leaves of a commit."""

    commit: Id
    tree: LeafTree


def encode(snapshot: Snapshot) -> bytes:
    """Return the file."""
    body = msgpack.packb((snapshot.commit, len(snapshot.tree), snapshot.tree.root))
    return HEAD + zlib.crc32(body).to_bytes(4, "big") + bytes(body)


def decode(data: bytes) -> Snapshot | None:
    """Return the snapshot, None if this is not a whole one."""
    body = memoryview(data)[len(HEAD) + 4 :]
    if data[: len(HEAD)] != HEAD or data[len(HEAD) : len(HEAD) + 4] != zlib.crc32(body).to_bytes(4, "big"):
        return None
    commit, count, root = msgpack.unpackb(body)
    return Snapshot(commit, LeafTree.of(root, count)) if len(commit) == ID_BYTES else None
