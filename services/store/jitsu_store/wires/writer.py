"""Everything that changes the repository, one batch after the other; what comes in the meantime is the next batch.

    waiting      in the queue, in the order in which the requests came
    decided      on the event loop, by rules/batch.py: its commit is in memory, after those before it     or refused
    written      one packfile for the whole batch, by the disk worker                                     or all refused
    moved        the branches are at the new commits, each compared with where it was                     or all refused
    landed       the callers are answered, and what has changed is published

If the disk refuses a batch of several requests, each is tried again alone, so that only the one at fault is refused.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from jitsu_protocol.messages import MASTER, Message
from jitsu_protocol.model.errors import JitsuError
from jitsu_store.rules.batch import Batch
from jitsu_store.rules.refusals import check_texts
from jitsu_store.wires.turns import in_steps

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from jitsu_protocol.messages import Apply, CreateBranch, DeleteBranch, Describe, Merge
    from jitsu_runtime.clock import Clock
    from jitsu_store.git.objects import Id
    from jitsu_store.rules.batch import Landed, Standing
    from jitsu_store.wires.repository import Repository
    from jitsu_store.wires.scratch import ScratchList
    from jitsu_store.wires.storage import Worker

MAX_BATCH_JOBS = 64
MAX_WAITING_JOBS = 10_000


@dataclass(frozen=True)
class _Job:
    """One request: what decides it, and who waits for the answer."""

    decide: Callable[[Batch], Awaitable[Message]]
    future: asyncio.Future[Message]

    def answer(self, reply: Message | JitsuError) -> None:
        if self.future.done():
            return  # its caller has given up
        if isinstance(reply, JitsuError):
            self.future.set_exception(reply)
        else:
            self.future.set_result(reply)


@dataclass(frozen=True)
class _Decided:
    """A job whose answer waits for the disk."""

    job: _Job
    branch: str
    """Which branch it has moved, if any."""
    reply: Message | JitsuError


class Writer:
    """The queue of changes."""

    def __init__(
        self,
        repository: Repository,
        standing: Standing,
        scratch: ScratchList,
        disk: Worker,
        clock: Clock,
        landed: Callable[[Landed], None],
    ) -> None:
        """`landed` is called for each commit that is on the disk, and for each branch that has come or gone."""
        self.repository = repository
        self._standing = standing
        self._scratch = scratch
        self._disk = disk
        self._clock = clock
        self._landed = landed
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue(MAX_WAITING_JOBS)

    # --- what can be asked for ---

    async def apply(self, request: Apply) -> Message:
        """Answer Apply."""
        check_texts(request)
        return await self._do(lambda batch: in_steps(batch.apply(request, self._clock.wall())))

    async def merge(self, request: Merge, fetched: Id | None = None) -> Message:
        """Answer Merge; `fetched` is the commit to merge if the branch is one of another repository."""
        check_texts(request)
        return await self._do(lambda batch: in_steps(batch.merge(request, fetched, self._clock.wall())))

    async def describe(self, request: Describe, zones: Collection[str]) -> Message:
        """Answer Describe; `zones` are the label zones."""
        return await self._do(lambda batch: in_steps(batch.describe(request, zones, self._clock.wall())))

    async def create_branch(self, request: CreateBranch) -> Message:
        """Answer CreateBranch."""

        async def decide(batch: Batch) -> Message:
            return batch.create_branch(request, self._clock.wall())

        return await self._do(decide)

    async def delete_branch(self, request: DeleteBranch) -> Message:
        """Answer DeleteBranch."""

        async def decide(batch: Batch) -> Message:
            return batch.delete_branch(request)

        return await self._do(decide)

    async def delete_old_scratch(self) -> None:
        """Delete the scratch branches that nobody has asked for lately; raises JitsuError."""

        async def decide(name: str, batch: Batch) -> Message:
            return batch.delete_old(name, self._clock.wall())

        for name in self._standing.scratch.due(self._clock.wall()):
            await self._do(partial(decide, name))

    async def record(self, values: Mapping[str, str], services: str) -> None:
        """Commit statistics."""
        await self._do(lambda batch: in_steps(batch.record(values, services, self._clock.wall())))

    async def _do(self, decide: Callable[[Batch], Awaitable[Message]]) -> Message:
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        await self._jobs.put(_Job(decide, future))
        return await future

    # --- the queue ---

    async def run(self) -> None:
        """Carry out jobs until cancelled."""
        while True:
            jobs = [await self._jobs.get()]
            while len(jobs) < MAX_BATCH_JOBS and not self._jobs.empty():
                jobs.append(self._jobs.get_nowait())
            for job in await self._carry_out(jobs):
                await self._carry_out([job])

    async def _carry_out(self, jobs: list[_Job]) -> list[_Job]:
        """Decide, land and answer; returns those of several jobs that did not land."""
        batch = Batch(self._standing, self.repository)
        decided = [await self._decide(job, batch) for job in jobs if not job.future.done()]
        failed, landed = await self._land(batch)
        again: list[_Job] = []
        for each in decided:
            if failed is None or not each.branch or each.branch in landed or isinstance(each.reply, JitsuError):
                each.job.answer(each.reply)
            elif len(jobs) > 1:
                again.append(each.job)
            else:
                each.job.answer(failed)
        return again

    @staticmethod
    async def _decide(job: _Job, batch: Batch) -> _Decided:
        try:
            reply = await job.decide(batch)
        except JitsuError as error:
            return _Decided(job, "", error)
        return _Decided(job, batch.moved, reply)

    async def _land(self, batch: Batch) -> tuple[JitsuError | None, set[str]]:
        """Bring a batch to the disk and publish it; returns why not, and which branches have moved all the same."""
        moves = batch.moves()
        failed: JitsuError | None = None
        landed = set(moves)
        try:
            if moves or batch.scratch:
                await self._disk.run(self._to_disk(batch, moves))
                self.repository.landed()
        except JitsuError as error:
            failed, landed = error, {branch for branch, (_, new) in moves.items() if self._is_at(branch, new)}
            if MASTER not in landed:
                await in_steps(batch.undo_steps())
        finally:
            self._standing.hidden.clear()
            self.repository.drop_staged()
        moved = {branch: new for branch, (_, new) in moves.items() if branch in landed}
        for each in self._standing.land(batch, moved, is_whole=failed is None):
            self._landed(each)
        return failed, landed

    def _to_disk(self, batch: Batch, moves: Mapping[str, tuple[Id | None, Id | None]]) -> Callable[[], None]:
        """Return what brings a batch to the disk, for the disk worker."""
        staged, there = self.repository.staged(), {name for name, head in batch.heads.items() if head is not None}
        wanted = batch.scratch_wanted().since()

        def work() -> None:
            self._scratch.save(wanted, there)
            if moves:
                self.repository.land(staged, moves)

        return work

    def _is_at(self, branch: str, head: Id | None) -> bool:
        """Say whether a landing that failed has moved this branch before it did."""
        try:
            return self.repository.head(branch) == head
        except JitsuError:
            return False
