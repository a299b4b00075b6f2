"""Scratch branches of commands that were interrupted: when they go, and which branches never do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.messages import CreateBranch, DeleteBranch, Fetch, HeadMoved, ListBranches, Push
from jitsu_protocol.model.errors import BadRequest, Unavailable
from jitsu_protocol.model.vm import to_tree
from jitsu_store.rules.scratch import LEASE_S, ScratchBranches, decode, encode, must_be_written
from jitsu_store.wires.scratch import SCRATCH_LIST
from tests.support.store import ME, Store, git, running
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from pathlib import Path


async def scratch(store: Store, name: str, now: float, who: str = ME) -> None:
    """Have a scratch branch made at a time; the store's clock stays there."""
    store.world.time.says = now
    await store.server.create_branch(CreateBranch(name=name, author=who, scratch=True))


async def left_at(store: Store, now: float) -> list[str]:
    """Return the branches that there are after the store has looked for old ones at a time."""
    store.world.time.says = now
    await store.server.delete_old_scratch()
    return [each.name for each in (await store.server.reader.list_branches(ListBranches())).branches]


async def test_the_scratch_branch_of_an_interrupted_command_goes_after_ten_minutes(tmp_path: Path) -> None:
    vm = make_vm()
    own, who = f"{vm.uuid}-trial-1", f"vm:{vm.uuid}"
    async with running(tmp_path / "db") as store:
        await store.apply(dict(to_tree(vm)))
        await store.branch("trial-1")  # as an older command asks for it, or a person who likes the name
        await store.branch(own, who=who)
        await scratch(store, "trial-2", 1000)
        await scratch(store, f"{own}-2", 1001, who)
        await store.merge(own, "trial-2")
        everything = sorted(["master", "trial-1", own, "trial-2", f"{own}-2"])
        assert await left_at(store, 999 + LEASE_S) == everything
        assert await left_at(store, 1000 + LEASE_S) == sorted(["master", "trial-1", own, f"{own}-2"])
        assert store.feed.of("heads")[-1] == HeadMoved(branch="trial-2", commit="")
        assert await left_at(store, 1001 + LEASE_S) == sorted(["master", "trial-1", own])
        assert await left_at(store, 9e9) == sorted(["master", "trial-1", own])
        assert store.git("for-each-ref", "--format=%(refname:short)").split() == sorted(["master", "trial-1", own])


async def test_a_scratch_branch_that_is_asked_for_again_stays_ten_minutes_longer(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        await store.apply({"a": "1"})
        await scratch(store, "trial", 1000)
        await scratch(store, "trial", 1500)
        assert await left_at(store, 1499 + LEASE_S) == ["master", "trial"]
        assert await left_at(store, 1500 + LEASE_S) == ["master"]
        await scratch(store, "trial", 5000)
        assert await left_at(store, 4000) == ["master", "trial"]  # the clock was set back
        assert await left_at(store, 4000 + LEASE_S) == ["master"]


async def test_a_store_that_starts_deletes_what_has_become_old_and_leaves_what_is_in_use(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        await store.apply({"a": "1"})
        await scratch(store, "old", 1000)
        await scratch(store, "new", 1400)
    async with running(tmp_path / "db") as store:
        assert await left_at(store, 1000 + LEASE_S) == ["master", "new"]
    async with running(tmp_path / "db") as store:
        assert await left_at(store, 1400 + LEASE_S) == ["master"]


async def test_a_branch_that_somebody_asks_to_keep_is_never_deleted(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        await store.apply({"a": "1"})
        await scratch(store, "first", 1000)
        await store.branch("first")  # somebody makes a branch of it
        await store.branch("second")
        await scratch(store, "second", 1000)  # it was there before, at the same commit
        assert await left_at(store, 9e9) == ["first", "master", "second"]
        await scratch(store, "third", 1000)
        await store.server.delete_branch(DeleteBranch(name="third", author=ME))
        await store.branch("third")
        with pytest.raises(BadRequest, match="master is what runs"):
            await scratch(store, "master", 1000)
    async with running(tmp_path / "db") as store:
        assert await left_at(store, 9e9) == ["first", "master", "second", "third"]


async def test_a_name_that_a_crash_left_on_the_list_takes_nobody_the_branch_that_is_made_later(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        await store.apply({"a": "1"})
    (tmp_path / "db" / SCRATCH_LIST).write_bytes(encode({"theirs": 1000.0}))  # and then it had no time for the branch
    async with running(tmp_path / "db") as store:
        await store.branch("theirs")
    async with running(tmp_path / "db") as store:
        assert await left_at(store, 9e9) == ["master", "theirs"]


async def test_without_a_list_on_the_disk_there_is_no_scratch_branch_and_other_changes_land(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        await store.apply({"a": "1"})
        obstacle = (tmp_path / "db" / SCRATCH_LIST).with_suffix(".tmp")
        obstacle.mkdir()
        one, other = await asyncio.gather(
            scratch(store, "trial", 1000), store.apply({"a": "2"}), return_exceptions=True
        )
        assert isinstance(one, Unavailable), one
        assert store.git("rev-parse", "master").strip() == other
        assert await left_at(store, 1000) == ["master"]
        obstacle.rmdir()
        await scratch(store, "trial", 1000)
        assert decode((tmp_path / "db" / SCRATCH_LIST).read_bytes()) == {"trial": 1000.0}


async def test_a_list_that_is_damaged_deletes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        await store.apply({"a": "1"})
        await scratch(store, "trial", 1000)
    for damaged in (b"", b"[]", b'{"trial": "x"}', b"\xff"):
        (tmp_path / "db" / SCRATCH_LIST).write_bytes(damaged)
        async with running(tmp_path / "db") as store:
            assert await left_at(store, 9e9) == ["master", "trial"]


async def test_what_a_pull_has_fetched_goes_too(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "--bare", "-b", "master", "other.git")
    remote = str(tmp_path / "other.git")
    async with running(tmp_path / "db") as store:
        await store.apply({"a": "1"})
        await store.server.push(Push(remote=remote, author=ME))
        store.world.time.says = 1000.0
        await store.server.fetch(Fetch(remote=remote, into="pull-1", author=ME, scratch=True))
        assert await left_at(store, 999 + LEASE_S) == ["master", "pull-1"]
        assert await left_at(store, 1000 + LEASE_S) == ["master"]


def test_the_list_is_written_for_a_new_name_and_for_a_branch_that_stays() -> None:
    assert must_be_written(written=[], wanted=["a"], there=["a"])
    assert must_be_written(written=["a"], wanted=[], there=["a"])
    assert not must_be_written(written=["a"], wanted=["a"], there=["a"])
    assert not must_be_written(written=["a", "b"], wanted=["a"], there=["a"]), "b is gone: its name does no harm"


def test_times_that_lie_ahead_count_from_now() -> None:
    branches = ScratchBranches({"a": 5000.0})
    assert branches.due(1000) == []
    assert branches.due(999 + LEASE_S) == []
    assert branches.due(1000 + LEASE_S) == ["a"]
