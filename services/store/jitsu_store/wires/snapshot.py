"""Reads and writes the snapshot of master (rules/snapshot.py): the store reads it, the repacker writes it.

The repacker writes it because that takes a while, and the store must not wait. Nothing depends on it being there.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import JitsuError
from jitsu_store.rules.snapshot import MAX_SNAPSHOT_LEAVES, Snapshot, decode, encode
from jitsu_store.rules.tree import LeafTree

if TYPE_CHECKING:
    from jitsu_store.git.objects import Id
    from jitsu_store.wires.repository import Repository
    from jitsu_store.wires.storage import FileStore

SNAPSHOT = "jitsu-snapshot"


def read_leaves(repository: Repository, files: FileStore, head: Id | None) -> tuple[LeafTree, int]:
    """Return all leaves of a commit, and how many of them no snapshot had; raises Unavailable if it is damaged."""
    if head is None:
        return LeafTree(), 0
    snapshot = None
    with suppress(OSError, ValueError):
        snapshot = decode(files.read(SNAPSHOT))
    if snapshot is not None:
        with suppress(JitsuError):  # its commit is not there: it was written for another repository
            newer = repository.differing(snapshot.commit, head)
            _, reasons = snapshot.tree.put({path: value for path, (_, value) in newer.items()})
            if not reasons:
                return snapshot.tree, len(newer)
    tree = LeafTree(repository.leaves(head))
    return tree, len(tree)


def write_snapshot(repository: Repository, files: FileStore, head: Id | None) -> None:
    """Write the snapshot of a commit if there is anything that it does not have; raises OSError."""
    tree, missing = read_leaves(repository, files, head)
    if head is None or not missing or len(tree) > MAX_SNAPSHOT_LEAVES:
        return
    files.replace(SNAPSHOT, encode(Snapshot(head, tree)))
