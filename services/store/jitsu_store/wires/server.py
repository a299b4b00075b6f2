"""The store's rpc and feeds: requests become questions to the reader or work for the writer.

read, list                master: at once, from memory (rules/view.py)       other branches: from the past
log, diff, changes        from the repository (past.py)
apply, merge, branches    in the writer's queue (writer.py, rules/batch.py)
record                    in memory, and in a journal (rules/recording.py, journal.py)
push, pull, fetch         a transfer first (remotes.py); what was fetched is then merged like any branch
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.messages import (
    MASTER,
    Applied,
    Apply,
    ChangesSince,
    CreateBranch,
    DeleteBranch,
    Describe,
    Diff,
    Done,
    Fetch,
    List,
    ListBranches,
    Log,
    Merge,
    Message,
    Pull,
    Push,
    Read,
    Record,
    Register,
)
from jitsu_protocol.model import identity
from jitsu_protocol.model.errors import JitsuError, NotFound, Unavailable
from jitsu_protocol.model.vm import STATS_ROOT
from jitsu_store.rules import access, recording, tree
from jitsu_store.rules.batch import Standing
from jitsu_store.rules.refusals import check_branch_name, refuse
from jitsu_store.rules.validate import State
from jitsu_store.rules.view import View
from jitsu_store.wires.feeds import CommitFeeds
from jitsu_store.wires.journal import JournalFile, StatisticsKeeper
from jitsu_store.wires.past import Past
from jitsu_store.wires.reader import TreeReader
from jitsu_store.wires.scratch import LOOK_S, ScratchList
from jitsu_store.wires.snapshot import read_leaves
from jitsu_store.wires.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from jitsu_protocol.messages import Request
    from jitsu_runtime.world import Feed, Handler, World
    from jitsu_store.git.objects import Id
    from jitsu_store.rules.batch import Landed
    from jitsu_store.wires.storage import Storage

PREPARED_VMS = 50
"""Built at a time by a store that starts, between which it answers readers."""

log = structlog.get_logger("store")


class StoreServer:
    """Answers each request."""

    def __init__(
        self, world: World, storage: Storage, feed: Feed, committed: Callable[[int], None] = lambda _: None
    ) -> None:
        """Read all of master; raises Unavailable if it is damaged.

        `committed` is called for each commit with how many leaves it changes.
        """
        self._committed = committed
        self._label_zones = world.settings.hypervisor.all_label_zones
        self._repository = storage.repository()
        leaves, self.missing = read_leaves(self._repository, storage.files, self._repository.head(MASTER))
        """How many leaves were not in the snapshot."""
        heads = self._repository.branches()
        scratch = ScratchList(storage.files, heads)
        self._standing = Standing(State(leaves), heads, scratch.branches)
        self._standing.look_back(self._repository)
        self._disk = storage.worker("disk")
        past = Past(storage.repository(), storage.worker("log"))
        self._remotes = storage.remotes
        self._writer = Writer(self._repository, self._standing, scratch, self._disk, world.clock, self._landed)
        self.keeper = StatisticsKeeper(
            JournalFile(storage.files),
            self._disk,
            world.clock,
            self._writer.record,
            world.settings.store.statistics_interval,
        )
        self.reader = TreeReader(self._standing, View(self._standing, self.keeper.statistics), past, feed)
        self._feeds = CommitFeeds(feed, world.metrics, self._standing.serial)
        self._refused = world.metrics.counter("refused_changes", "Changes that were refused.", ["code"])
        world.metrics.gauge("leaves", "Leaves in the tree.", lambda: float(len(self._standing.state.tree)))
        world.metrics.gauge("branches", "Branches.", lambda: float(len(self._standing.heads)))

    def handlers(self) -> dict[type[Request], Handler]:
        """Return what answers each request."""
        return {
            Read: self.reader.read,
            List: self.reader.list,
            Log: self.reader.log,
            Diff: self.reader.diff,
            ChangesSince: self.reader.changes_since,
            ListBranches: self.reader.list_branches,
            Apply: self.apply,
            Register: self.register,
            Record: self.record,
            CreateBranch: self.create_branch,
            DeleteBranch: self.delete_branch,
            Merge: self.merge,
            Describe: self.describe,
            Push: self.push,
            Pull: self.pull,
            Fetch: self.fetch,
        }

    def notes(self) -> list[str]:
        """Return what an operator should know."""
        return self._standing.state.notes()

    def close(self) -> None:
        """Let the workers end."""
        self._disk.close()
        self.reader.close()

    def repacked(self) -> None:
        """Note that packfiles have been combined."""
        try:
            self._repository.reopen()
        except Unavailable as error:  # what it has open stays usable
            log.warning("cannot open the repository again", reason=str(error))

    # --- writing ---

    async def apply(self, request: Apply) -> Message:
        """Answer Apply."""
        if any(tree.clean(change.path).startswith(STATS_ROOT) for change in request.changes):
            await self.keeper.try_to_flush()  # what waits was recorded before this
        return await self._counted(self._writer.apply(request))

    async def register(self, request: Register) -> Message:
        """Answer Register."""
        return await self.apply(request.as_apply())

    async def merge(self, request: Merge) -> Message:
        """Answer Merge."""
        await self.keeper.try_to_flush()  # counters add up: to what they are now
        return await self._counted(self._writer.merge(request))

    async def describe(self, request: Describe) -> Message:
        """Answer Describe. vmd is not believed: the zones are those of this store's own settings."""
        return await self._counted(self._writer.describe(request, self._label_zones))

    async def create_branch(self, request: CreateBranch) -> Message:
        """Answer CreateBranch."""
        await self.keeper.try_to_flush()  # a branch of master begins with the statistics of now
        return await self._counted(self._writer.create_branch(request))

    async def delete_branch(self, request: DeleteBranch) -> Message:
        """Answer DeleteBranch."""
        return await self._counted(self._writer.delete_branch(request))

    def record(self, request: Record) -> Done:
        """Answer Record."""
        recording.record(request, self.keeper.statistics, self._standing.state.tree)
        return Done()

    async def push(self, request: Push) -> Applied:
        """Answer Push."""
        refuse(access.operator_refusal(identity.parse(request.author), "push"))
        await self.keeper.try_to_flush()  # a backup has the statistics of now
        head = self.reader.head(request.branch)
        if head is None:
            raise NotFound(f"the branch {request.branch} has no commit yet")
        return Applied(commit=(await self._remotes.push(request.remote, request.branch)).hex(), changed=0)

    async def pull(self, request: Pull) -> Message:
        """Answer Pull."""
        fetched = await self._fetched(request)
        wanted = Merge(
            branch=f"{request.branch} of {request.remote}",
            into=request.branch,
            author=request.author,
            request=request.request,
        )
        await self.keeper.try_to_flush()
        return await self._counted(self._writer.merge(wanted, fetched))

    async def fetch(self, request: Fetch) -> Message:
        """Answer Fetch."""
        fetched = await self._fetched(request)
        made = CreateBranch(name=request.into, start=fetched.hex(), author=request.author, scratch=request.scratch)
        return await self._counted(self._writer.create_branch(made))

    async def _fetched(self, request: Pull | Fetch) -> Id:
        refuse(access.operator_refusal(identity.parse(request.author), "pull"))
        check_branch_name(request.branch)
        fetched = await self._remotes.fetch(request.remote, request.branch)
        self._repository.reopen()  # so that it sees what has come
        return fetched

    async def commit_for_ever(self) -> None:
        """Carry out what changes the repository, until cancelled; readers are served from the start."""
        more = True
        while more:
            more = self._standing.state.prepare(PREPARED_VMS) or self._standing.state.find_clashes(PREPARED_VMS)
            await asyncio.sleep(0)  # the loop's turn
        for uuid, fault in self._standing.state.faults().items():
            log.warning("VM in the store cannot be used", uuid=uuid, reason=fault)
        await self._writer.run()

    async def delete_old_scratch_for_ever(self) -> None:
        """Delete scratch branches of commands that were interrupted, until cancelled."""
        while True:
            await self.delete_old_scratch()
            await asyncio.sleep(LOOK_S)

    async def delete_old_scratch(self) -> None:
        """Delete the scratch branches that are too old now; if that fails, log it, and the next look tries again."""
        try:
            await self._writer.delete_old_scratch()
        except JitsuError as error:
            log.warning("scratch branches of interrupted commands are not deleted yet", reason=str(error))

    async def flush(self) -> None:
        """Commit the statistics that wait; raises JitsuError, and then they go on waiting."""
        await self.keeper.flush()

    # --- below ---

    def _landed(self, landed: Landed) -> None:
        self._feeds.publish(landed)
        if landed.changes:
            self._committed(len(landed.changes))

    async def _counted(self, work: Awaitable[Message]) -> Message:
        try:
            return await work
        except JitsuError as error:
            self._refused.labels(error.code).inc()
            raise
