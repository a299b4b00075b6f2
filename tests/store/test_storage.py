"""A store over storage in memory: what it acknowledged outlives it, and a disk that fails costs one change."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from jitsu_protocol.messages import Apply, Change, Log, Record
from jitsu_protocol.model.errors import Unavailable
from jitsu_store.git.errors import CannotWriteError
from jitsu_store.main import start
from tests.support.store import KeptFeed, StoreWorld, running_on
from tests.support.store_memory import MemoryDisk, MemoryStorage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from jitsu_protocol.messages import Request
    from jitsu_runtime.world import World


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
    disk, world = MemoryDisk(), StartedWorld()
    await start(cast("World", world), lambda _: MemoryStorage(disk))
    assert world.is_ready
    assert world.notes() == ["repository the disk of the test"]
    apply = world.handlers[Apply]
    changes = [Change(path="a", value="1")]
    await apply(Apply(changes=changes, author="operator:me", message="", request=""))
    world.handlers[Record](Record(values={"jitsu/stats/v/total_starts": "1"}, service="vmd"))
    assert world.on_stop is not None
    await world.on_stop()
    await world.end()
    async with running_on(MemoryStorage(disk)) as store:
        assert await store.leaves() == {"a": "1", "jitsu/stats/v/total_starts": "1"}


class StartedWorld(StoreWorld):
    """A world that keeps what a store gives it."""

    def __init__(self) -> None:
        super().__init__()
        self.handlers: dict[type[Request], Any] = {}
        self.is_ready = False
        self.notes: Callable[[], list[str]] = list
        self.on_stop: Callable[[], Awaitable[None]] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def publish(self, *topics: str) -> KeptFeed:
        return KeptFeed()

    def spawn(self, work: Coroutine[Any, Any, None], name: str = "") -> asyncio.Task[None]:
        self._tasks.append(asyncio.create_task(work, name=name))
        return self._tasks[-1]

    def serve(self, handlers: Mapping[type[Request], Any]) -> None:
        self.handlers |= handlers

    def ready(self) -> None:
        self.is_ready = True

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
