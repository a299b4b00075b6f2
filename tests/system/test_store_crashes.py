"""The store as a process: stopped and killed while it writes and stock git reads."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import statistics
from time import monotonic
from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.messages import MASTER, Done, Read, Record, Value
from jitsu_protocol.model.errors import TimedOut
from jitsu_store.wires.disk import open_repository
from tests.support.store import git
from tests.support.store_process import ForkedStore, StoreProcess, store_process

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.suite

KILLS = 100
WRITTEN_EACH = 10
WRITERS = 4
KEYS = 25
SLOW_DISK_S = 0.3
KILLED_S = 0.2
"""A store that has not answered for so long has been killed; what it still did is among what is possible."""


class Writer:
    """Counts up in its keys, one after the other, without a pause."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._count = 0
        self.count = 0
        """How many writes were acknowledged."""
        self.possible: dict[str, set[int]] = {}
        """Path -> what was acknowledged last, and what was tried after that."""

    async def write(self, store: StoreProcess, patience_s: float = KILLED_S) -> None:
        while True:
            self._count += 1
            path = f"load/{self._number}/{self._count % KEYS}/value"
            self.possible.setdefault(path, {0}).add(self._count)
            try:
                await store.apply({path: str(self._count)}, timeout=patience_s)
            except TimedOut:
                return  # it has been killed
            self.possible[path] = {self._count}
            self.count += 1

    def check(self, leaves: dict[str, str]) -> None:
        """What was acknowledged is there, or what was tried after it."""
        for path, possible in self.possible.items():
            assert int(leaves.get(path, "0")) in possible, path


@pytest.mark.timeout(400)
async def test_g5_g6_a_hundred_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    writers = [Writer(number) for number in range(WRITERS)]
    chance = random.Random(5)
    starts = []
    async with store_process(tmp_path / "db", tmp_path / "run", ForkedStore) as store:
        for number in range(KILLS):
            starts.append(await store.start())
            tasks = [asyncio.create_task(writer.write(store)) for writer in writers]
            await asyncio.sleep(
                chance.uniform(0.4, 0.8) if number % 10 == 9 else chance.uniform(0.0, 0.1)
            )  # at times into a packing
            while sum(writer.count for writer in writers) < WRITTEN_EACH * number:
                if all(task.done() for task in tasks):
                    break  # all took a store that is slow for one that was killed
                await asyncio.sleep(0.005)  # on a slow machine too there is something to lose
            store.kill(signal.SIGTERM if number % 4 == 1 else signal.SIGKILL)
            await asyncio.gather(*tasks)
            git(tmp_path / "db", "fsck", "--strict")
            repository = open_repository(tmp_path / "db")
            leaves = repository.leaves(repository.head(MASTER))
            for writer in writers:
                writer.check(leaves)
    written = sum(writer.count for writer in writers)
    print(f"{written} changes acknowledged between {KILLS} kills")
    print(f"start after a crash, without Python's own: median {statistics.median(starts):.2f} s")
    print(f"longest {max(starts):.2f} s")


async def test_a_kill_loses_at_most_the_statistics_of_the_last_second(tmp_path: Path) -> None:
    path, chance = "jitsu/stats/v/total_starts", random.Random(7)
    async with store_process(tmp_path / "db", tmp_path / "run", ForkedStore) as store:
        told: list[tuple[float, int]] = [(0.0, 0)]

        async def record() -> None:
            while True:
                count = told[-1][1] + 1
                try:
                    await store.call(Record(values={path: str(count)}, service="vmd"), Done, KILLED_S)
                except TimedOut:
                    return
                told.append((monotonic(), count))

        for _ in range(4):
            await store.start()
            recording = asyncio.create_task(record())
            await asyncio.sleep(chance.uniform(1.2, 2.4))
            killed = monotonic()
            store.kill()
            await recording
            git(tmp_path / "db", "fsck", "--strict")
            await store.start()
            value = int((await store.call(Read(path=path), Value)).value)
            store.kill()
            on_disk = max(count for at, count in told if at < killed - 1.0 - SLOW_DISK_S)
            assert on_disk <= value <= told[-1][1] + 1


async def test_stock_git_reads_and_clones_while_writes_go_on(tmp_path: Path) -> None:
    async with store_process(tmp_path / "db", tmp_path / "run") as store:
        await store.start()
        writers = [Writer(number) for number in range(WRITERS)]
        tasks = [asyncio.create_task(writer.write(store, patience_s=30)) for writer in writers]
        try:
            for number in range(8):
                await asyncio.sleep(0.3)  # enough for some rounds of packing
                clone = str(tmp_path / f"clone{number}")
                await asyncio.to_thread(git, tmp_path, "clone", "-q", "--no-local", str(tmp_path / "db"), clone)
                await asyncio.to_thread(git, tmp_path / f"clone{number}", "fsck", "--strict")
                shown = await asyncio.to_thread(git, tmp_path / "db", "show", "master:load/0/1/value")
                assert shown.strip().isdecimal()
            assert all(not task.done() for task in tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        commits = int(await asyncio.to_thread(git, tmp_path / "db", "rev-list", "--count", "master"))
        packs = len(list((tmp_path / "db" / "objects" / "pack").glob("*.pack")))
        assert packs < commits
        assert store.stop() == 0


async def test_a_packer_that_is_killed_is_missed_by_nobody_and_replaced(tmp_path: Path) -> None:
    async with store_process(tmp_path / "db", tmp_path / "run") as store:
        await store.start()
        seen: set[int] = set()
        for number in range(3000):
            await store.apply({f"load/{number % KEYS}": str(number)})
            packers = set(store.children()) - seen
            for pid in packers:
                seen.add(pid)
                os.kill(pid, signal.SIGKILL)
            if len(seen) > 1:
                break
        assert len(seen) > 1, "no second packer came"
        assert store.stop() == 0
        git(tmp_path / "db", "fsck", "--strict")
