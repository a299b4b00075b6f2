"""The snapshot with which a store of thousands of VMs starts, and what a store does before it has looked at all VMs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.messages import List
from jitsu_protocol.model.errors import Invalid
from jitsu_protocol.model.vm import to_tree
from jitsu_store.git.object_store import DiskObjectStore
from jitsu_store.rules.snapshot import Snapshot, decode, encode
from jitsu_store.rules.tree import LeafTree
from jitsu_store.rules.validate import State
from jitsu_store.wires.disk import DirectoryFiles, open_repository
from jitsu_store.wires.repacker import RepackPass
from jitsu_store.wires.snapshot import SNAPSHOT, read_leaves
from tests.support.store import running
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from pathlib import Path

    from jitsu_store.git.objects import Id, ObjectKind


def counted(path: Path) -> tuple[dict[str, str], int, int]:
    """Return the leaves of master, how many the snapshot did not have, and how many objects were read for that."""
    reads, read = 0, DiskObjectStore.read

    def counting(store: DiskObjectStore, id: Id, kind: ObjectKind) -> bytes:
        nonlocal reads
        reads += 1
        return read(store, id, kind)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiskObjectStore, "read", counting)
        repository = open_repository(path)
        tree, missing = read_leaves(repository, DirectoryFiles(path), repository.head("master"))
    return tree.below(), missing, reads


async def test_a_store_reads_only_what_its_snapshot_does_not_have(tmp_path: Path) -> None:
    path = tmp_path / "db"
    leaves = {f"a/{number:03}/x": str(number) for number in range(300)}
    async with running(path) as store:
        await store.apply(dict(leaves))
        RepackPass(path).save_snapshot()
        await store.apply({"a/001/x": "new", "a/002/x": None, "b/y": "1"})
        expected = await store.leaves()
    found, missing, reads = counted(path)
    assert (found, missing) == (expected, 3)
    assert reads < 25
    async with running(path) as store:
        assert await store.leaves() == expected
        store.git("fsck", "--strict")
        RepackPass(path).save_snapshot()
    assert counted(path)[1] == 0


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "of another repository", "no file"])
async def test_a_snapshot_that_is_damaged_or_of_another_repository_is_ignored(tmp_path: Path, damage: str) -> None:
    async with running(tmp_path / "other") as store:
        await store.apply({"z": "1"})
    RepackPass(tmp_path / "other").save_snapshot()
    path = tmp_path / "db"
    async with running(path) as store:
        await store.apply({"a/x": "1"})
    RepackPass(path).save_snapshot()
    file = path / SNAPSHOT
    data = file.read_bytes()
    match damage:
        case "cut":
            file.write_bytes(data[:-3])
        case "changed":
            file.write_bytes(data[:-1] + b"2")
        case "empty":
            file.write_bytes(b"")
        case "of another repository":
            file.write_bytes((tmp_path / "other" / SNAPSHOT).read_bytes())
        case _:
            file.unlink()
    assert counted(path)[:2] == ({"a/x": "1"}, 1)


async def test_a_snapshot_of_a_branch_that_went_elsewhere_gives_what_the_branch_has_now(tmp_path: Path) -> None:
    path = tmp_path / "db"
    async with running(path) as store:
        old = await store.apply({"a/x": "1", "b": "1"})
        await store.apply({"a/x": "2", "c/d": "1", "b": None})
        RepackPass(path).save_snapshot()
        store.git("update-ref", "refs/heads/master", old)
    assert counted(path)[0] == {"a/x": "1", "b": "1"}


def test_a_snapshot_is_read_as_it_was_written() -> None:
    tree = LeafTree({"a/b": "1", "a/c/d": "ü", "e": ""})
    found = decode(encode(Snapshot(b"x" * 20, tree)))
    assert found is not None
    assert (found.commit, found.tree.below(), len(found.tree)) == (b"x" * 20, tree.below(), 3)
    found.tree.put({"a/b": None, "a/c/e": "2"})
    assert found.tree.below() == {"a/c/d": "ü", "a/c/e": "2", "e": ""}


async def test_readers_are_served_while_a_store_that_starts_looks_at_its_vms_and_changes_wait(tmp_path: Path) -> None:
    vms = [make_vm(f"n{number}", f"127.0.2.{number + 1}") for number in range(120)]
    leaves = {path: value for vm in vms for path, value in to_tree(vm).items()}
    async with running(tmp_path / "db") as store:
        await store.apply(dict(leaves))
    async with running(tmp_path / "db") as store:
        clash = asyncio.create_task(store.apply({f"jitsu/vm/{vms[0].uuid}/ip": "127.0.2.120"}))
        assert (await store.server.reader.list(List(prefix="jitsu/vm"))).leaves == leaves
        with pytest.raises(Invalid, match="belongs to the VM n119 already"):
            await clash


def test_a_state_that_is_built_in_pieces_is_the_one_that_is_built_at_once() -> None:
    vms = [make_vm(f"n{number}", f"127.0.2.{number + 1}") for number in range(7)]
    leaves = {path: value for vm in vms for path, value in to_tree(vm).items()} | {"jitsu/vm/broken/ip": "x"}
    state, steps = State(leaves), 1
    while state.prepare(3):
        steps += 1
    assert steps == 3
    assert state.faults().keys() == State(leaves).faults().keys() == {"broken"}
    _, reasons = state.put({f"jitsu/vm/{vms[0].uuid}/ip": "127.0.2.7"})
    assert len(reasons) == 1
    assert "belongs to the VM n6 already" in reasons[0]
    assert not state.prepare(3)
