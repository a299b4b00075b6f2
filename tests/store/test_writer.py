"""The queue of changes with a disk in memory that fails when a test asks it to."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import pytest

from jitsu_protocol.messages import MASTER, Applied, Apply, Change, CreateBranch, DeleteBranch
from jitsu_protocol.model.errors import BadRequest, Conflict, JitsuError, Unavailable
from jitsu_store.git.errors import CannotWriteError
from jitsu_store.rules.batch import Landed, Standing
from jitsu_store.rules.scratch import LEASE_S
from jitsu_store.rules.validate import State
from jitsu_store.wires.scratch import SCRATCH_LIST, ScratchList
from jitsu_store.wires.writer import MAX_BATCH_JOBS, Writer
from tests.support.clock import VirtualClock
from tests.support.store import ME
from tests.support.store_memory import Inline, MemoryDisk, MemoryStorage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from jitsu_protocol.messages import Message

T = TypeVar("T")


class CountingDisk(Inline):
    """Counts how often something is brought to the disk."""

    def __init__(self) -> None:
        self.landings = 0

    async def run(self, work: Callable[[], T]) -> T:
        self.landings += 1
        return await super().run(work)


class Bench:
    """A writer that runs, and what it has published."""

    def __init__(self, disk: MemoryDisk) -> None:
        self.disk = disk
        self.clock = VirtualClock()
        self.published: list[Landed] = []
        self.worker = CountingDisk()
        storage = MemoryStorage(disk)
        repository = storage.repository()
        heads = repository.branches()
        scratch = ScratchList(storage.files, heads)
        self.standing = Standing(State({}), heads, scratch.branches)
        self.writer = Writer(repository, self.standing, scratch, self.worker, self.clock, self.published.append)

    async def apply(self, path: str, value: str, branch: str = MASTER) -> Message:
        changes = [Change(path=path, value=value)]
        return await self.writer.apply(Apply(changes=changes, author=ME, message="", request="", branch=branch))

    async def create(self, name: str, *, scratch: bool = False) -> Message:
        return await self.writer.create_branch(CreateBranch(name=name, author=ME, scratch=scratch))


@asynccontextmanager
async def writing() -> AsyncIterator[Bench]:
    bench = Bench(MemoryDisk())
    task = asyncio.create_task(bench.writer.run())
    try:
        yield bench
    finally:
        task.cancel()
        await asyncio.wait([task])


def kinds(answers: Iterable[Message | BaseException]) -> list[type[Message | BaseException]]:
    return [type(each) for each in answers]


async def test_what_comes_while_the_disk_is_busy_is_written_together() -> None:
    async with writing() as bench:
        await asyncio.gather(*(bench.apply(f"k{number}", "1") for number in range(2 * MAX_BATCH_JOBS)))
        assert bench.worker.landings == 2
        assert len(bench.published) == 2 * MAX_BATCH_JOBS
        assert len(bench.standing.state.tree) == 2 * MAX_BATCH_JOBS


async def test_a_batch_that_the_disk_refuses_is_tried_again_one_by_one() -> None:
    async with writing() as bench:
        await bench.apply("a", "0")
        full = CannotWriteError("no space left on device")
        bench.disk.failures += [full, full]  # the batch, and then the first of it alone
        answers = await asyncio.gather(
            bench.apply("a", "1"), bench.apply("b", "1"), bench.create("try"), return_exceptions=True
        )
        assert kinds(answers) == [Unavailable, Applied, Applied]
        assert bench.standing.state.tree.below("") == {"a": "0", "b": "1"}
        assert sorted(bench.disk.heads) == [MASTER, "try"]
        assert bench.disk.heads == bench.standing.heads


async def test_a_refused_request_is_answered_with_its_own_reason_whatever_the_disk_does() -> None:
    async with writing() as bench:
        bench.disk.failures.append(CannotWriteError("no space left on device"))
        answers = await asyncio.gather(bench.create("a b"), bench.apply("a", "1"), return_exceptions=True)
        assert kinds(answers) == [BadRequest, Applied]


async def test_a_branch_that_another_program_has_moved_is_a_conflict_and_nothing_is_published() -> None:
    async with writing() as bench:
        await bench.apply("a", "0")
        published = len(bench.published)
        bench.disk.heads[MASTER] = b"\x01" * 20
        with pytest.raises(Conflict, match="another program has moved the branch master"):
            await bench.apply("a", "1")
        assert (len(bench.published), bench.standing.state.tree.get("a")) == (published, "0")


async def test_a_scratch_branch_is_on_the_list_before_it_is_there() -> None:
    async with writing() as bench:
        await bench.apply("a", "0")
        bench.disk.failures.append(OSError("no space left on device"))
        with pytest.raises(Unavailable, match=SCRATCH_LIST):
            await bench.create("trial", scratch=True)
        assert sorted(bench.disk.heads) == [MASTER]
        await bench.create("trial", scratch=True)
        assert SCRATCH_LIST in bench.disk.files
        bench.clock.advance(LEASE_S - 1)
        await bench.writer.delete_old_scratch()
        assert "trial" in bench.standing.heads
        bench.clock.advance(1)
        await bench.writer.delete_old_scratch()
        assert sorted(bench.disk.heads) == [MASTER]
        assert (bench.published[-1].branch, bench.published[-1].commit) == ("trial", "")


async def test_a_caller_that_has_given_up_costs_the_others_nothing() -> None:
    async with writing() as bench:
        given_up = asyncio.create_task(bench.apply("a", "1"))
        await asyncio.sleep(0)
        given_up.cancel()
        await bench.apply("b", "1")
        assert "b" in bench.standing.state.tree.below("")


async def test_a_branch_that_is_deleted_is_published_as_gone() -> None:
    async with writing() as bench:
        await bench.apply("a", "0")
        await bench.create("try")
        await bench.writer.delete_branch(DeleteBranch(name="try", author=ME))
        assert [(each.branch, bool(each.commit)) for each in bench.published[1:]] == [("try", True), ("try", False)]


async def test_statistics_are_committed_in_the_name_of_the_services_that_recorded_them() -> None:
    async with writing() as bench:
        await bench.writer.record({"jitsu/stats/v/total_starts": "1"}, "vmd")
        (landed,) = bench.published
        assert dict(landed.changes) == {"jitsu/stats/v/total_starts": (None, "1")}
        bench.disk.failures.append(CannotWriteError("no space left on device"))
        with pytest.raises(JitsuError):
            await bench.writer.record({"jitsu/stats/v/total_starts": "2"}, "vmd")
        assert bench.standing.state.tree.get("jitsu/stats/v/total_starts") == "1"
