"""A store over storage in memory: what it acknowledged outlives it, and a disk that fails costs one change."""

from __future__ import annotations

import pytest

from jitsu_protocol.messages import Log
from jitsu_protocol.model.errors import Unavailable
from jitsu_store.git.errors import CannotWriteError
from tests.support.store import running_on
from tests.support.store_memory import MemoryDisk, MemoryStorage


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
