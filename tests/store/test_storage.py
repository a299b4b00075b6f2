"""A store over storage in memory: what it acknowledged outlives it, and a disk that fails costs one change."""

from __future__ import annotations

from typing import Any

import pytest

from jitsu_protocol.messages import Apply, Change, ChangesSince, Diff, ListBranches, Log, Record
from jitsu_protocol.model.errors import Conflict, NotFound, Unavailable
from jitsu_store.git.errors import CannotWriteError
from jitsu_store.main import start
from tests.support.store import running_on
from tests.support.store_memory import MemoryDisk, MemoryStorage
from tests.support.world import played_world


async def test_a_store_in_memory_keeps_what_it_acknowledged_when_it_is_killed() -> None:
    disk = MemoryDisk()
    async with running_on(MemoryStorage(disk)) as store:
        first = await store.apply({"a": "1"}, request="r1")
        await store.branch("try")
        await store.apply({"b": "2"}, "try")
        disk.failures.append(CannotWriteError("no space left on device"))
        with pytest.raises(Unavailable, match="cannot write to the store"):
            await store.apply({"a": "2"})
        assert await store.get("a") == "1"
        await store.merge("try")
        messages = [commit.message.splitlines()[0] for commit in (await store.server.reader.log(Log())).commits]
        assert messages == ["Merge try into master", "Why", "Why"]
    async with running_on(MemoryStorage(disk)) as store:
        assert await store.leaves() == {"a": "1", "b": "2"}
        assert await store.apply({"a": "1"}, request="r1") == first
        assert sorted(disk.heads) == ["master", "try"]


async def test_a_store_starts_on_any_storage_and_tells_what_it_has_when_it_stops() -> None:
    disk = MemoryDisk()
    async with played_world("store") as world:
        await start(world, lambda _: MemoryStorage(disk))
        assert world.is_ready
        assert world.notes() == ["repository the disk of the test"]
        changes = [Change(path="a", value="1")]
        applied: Any = world.handlers[Apply](Apply(changes=changes, author="operator:me", message="", request=""))
        await applied
        world.handlers[Record](Record(values={"jitsu/stats/v/total_starts": "1"}, service="vmd"))
        await world.stop()
    async with running_on(MemoryStorage(disk)) as store:
        assert await store.leaves() == {"a": "1", "jitsu/stats/v/total_starts": "1"}


async def test_the_past_is_answered_from_any_storage() -> None:
    async with running_on(MemoryStorage(MemoryDisk())) as store:
        first = await store.apply({"a/b": "1", "c": "1"})
        await store.branch("try")
        await store.apply({"a/b": "2"}, "try")
        last = await store.apply({"c": "2"})
        reader = store.server.reader
        assert (await store.get("a/b", "try"), await store.leaves("try")) == ("2", {"a/b": "2", "c": "1"})
        assert [each.id for each in (await reader.log(Log(path="c"))).commits] == [last, first]
        assert [each.id for each in (await reader.log(Log(limit=1))).commits] == [last]
        found = (await reader.diff(Diff(old="try", new=last[:12]))).changes
        assert {each.path: (each.old, each.value) for each in found} == {"a/b": ("2", "1"), "c": ("1", "2")}
        changes = await reader.changes_since(ChangesSince(since="", limit=1))
        assert (changes.upto, changes.more, len(changes.commits)) == (first, True, 1)
        assert (await reader.changes_since(ChangesSince(since=last))).commits == []
        with pytest.raises(Conflict, match="is not in the history of try"):
            await reader.changes_since(ChangesSince(branch="try", since=last))
        listed = (await reader.list_branches(ListBranches())).branches
        assert [each.name for each in listed] == ["master", "try"]
        with pytest.raises(NotFound, match="it has 1 below it"):
            await store.get("a", "try")
        with pytest.raises(NotFound, match="does not exist"):
            await store.get("a/x")
        with pytest.raises(NotFound, match="there is no branch 'nothing'"):
            await store.get("a", "nothing")
        with pytest.raises(NotFound, match="neither a branch nor a commit"):
            await reader.diff(Diff(old="0000000", new="master"))
