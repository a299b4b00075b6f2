"""The store's rpc and feeds over one repository."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import structlog

from jitsu_protocol.messages import (
    MASTER,
    Applied,
    Apply,
    Branch,
    BranchList,
    Change,
    ChangesList,
    ChangesSince,
    Commit,
    CommitChanges,
    Committed,
    CreateBranch,
    DeleteBranch,
    Diff,
    Difference,
    Done,
    Fetch,
    HeadMoved,
    History,
    Leaves,
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
    Value,
)
from jitsu_protocol.model import identity
from jitsu_protocol.model.errors import Conflict, JitsuError, NotFound, Refused, Unavailable
from jitsu_protocol.model.vm import MAX_NAMES, STATS_ROOT, VM_ROOT
from jitsu_runtime.bus.feed_server import MAX_ITEM_BYTES
from jitsu_store.rules import access, tree
from jitsu_store.rules.refusals import check_branch_name
from jitsu_store.rules.validate import MAX_TOLD_BYTES, State
from jitsu_store.wires.journal import JournalFile, StatisticsKeeper
from jitsu_store.wires.scratch import LOOK_S, ScratchList
from jitsu_store.wires.snapshot import read_leaves
from jitsu_store.wires.writer import Landed, Writer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from jitsu_protocol.messages import Request
    from jitsu_runtime.world import Feed, Handler, World
    from jitsu_store.git.commits import CommitRecord
    from jitsu_store.git.objects import Id
    from jitsu_store.wires.repository import Repository
    from jitsu_store.wires.storage import Storage

PREPARED_VMS = 50
"""Built at a time by a store that starts, between which it answers readers."""
MAX_RECORDED = 200_000
"""Values that wait for their commit: of 10,000 VMs, ten names each."""
MAX_STATISTICS_NAMES = 2 * MAX_NAMES
"""Of one VM: its names now, and those that it had before."""
MAX_STATISTICS_OF_NOBODY = 1000
"""VMs that have statistics and are not there."""
PAGE_BYTES = MAX_TOLD_BYTES
"""A page is full when it has so much, however few leaves that are."""
MAX_ANSWER_BYTES = 32 * 1024 * 1024
MAX_LOG_SCAN = 100_000
HEADS = "heads"
VM_TOPIC = "vm"
FEEDS = (*tree.TOPICS, HEADS)

T = TypeVar("T")

log = structlog.get_logger("store")


class StoreServer:
    """Holds master in memory, the truth in Git."""

    def __init__(
        self,
        world: World,
        storage: Storage,
        feed: Feed,
        committed: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Read all of master; raises Unavailable if it is damaged.

        `committed` is called for each commit with how many leaves it changes.
        """
        metrics = world.metrics
        self._feed = feed
        self._tell = committed
        self._repository = storage.repository()
        leaves, self.missing = read_leaves(self._repository, storage.files, self._repository.head(MASTER))
        """How many leaves were not in the snapshot."""
        self._state = State(leaves)
        # Each worker has a handle of its own: reading history must not block writing.
        self._disk, self._history = storage.worker("disk"), storage.worker("log")
        self._past = storage.repository()
        self._remotes = storage.remotes
        scratch = ScratchList(storage.files, self._repository.branches())
        self._writer = Writer(self._repository, self._state, scratch, self._disk, world.clock, self._landed)
        self.scratch = self._writer.scratch
        self._told_serial = self._writer.serial
        self.keeper = StatisticsKeeper(
            JournalFile(storage.files),
            self._disk,
            world.clock,
            self._writer.record,
            world.settings.store.statistics_interval,
        )
        self._statistics = self.keeper.statistics
        self._commits = metrics.counter("commits", "Commits made.", ["topic"])
        self._refused = metrics.counter("refused_changes", "Changes that were refused.", ["code"])
        metrics.gauge("leaves", "Leaves in the tree.", lambda: float(len(self._state.tree)))
        metrics.gauge("branches", "Branches.", lambda: float(len(self._writer.heads)))

    def handlers(self) -> dict[type[Request], Handler]:
        """Return what answers each request."""
        return {
            Read: self.read,
            List: self.list,
            Log: self.log,
            Diff: self.diff,
            ChangesSince: self.changes_since,
            ListBranches: self.list_branches,
            Apply: self.apply,
            Register: self.register,
            Record: self.record,
            CreateBranch: self.create_branch,
            DeleteBranch: self.delete_branch,
            Merge: self.merge,
            Push: self.push,
            Pull: self.pull,
            Fetch: self.fetch,
        }

    def notes(self) -> list[str]:
        """Return what an operator should know."""
        return self._state.notes()

    def close(self) -> None:
        """Let the threads end."""
        for worker in (self._disk, self._history):
            worker.close()

    def packed(self) -> None:
        """Note that packs have been brought together."""
        try:
            self._repository.reopen()
        except Unavailable as error:  # what it has open stays usable
            log.warning("cannot open the repository again", reason=str(error))

    # --- reading: master from memory, all else from the repository on a thread of its own ---

    async def read(self, request: Read) -> Value:
        """Answer Read."""
        path = tree.clean(request.path)
        head = self._head(request.branch)
        if request.branch == MASTER:
            value = self._statistics.get(path)
            if value is None:
                hidden, held = self._writer.hidden, self._state.tree
                value = hidden[path] if path in hidden else held.get(path)
        else:
            value = await self._in_past(lambda past: None if head is None else past.value(head, path))
        if value is not None:
            return Value(value=value, commit=_hex(head))
        below = await self._below(request.branch, path)
        if below:
            raise NotFound(f"{path} is not a value: it has {len(below)} below it", hint="jitsu tree shows them")
        raise NotFound(f"{path} does not exist", hint=self._state.tree.nearest(path))

    async def list(self, request: List) -> Leaves:
        """Answer List."""
        feed = self._feed.feeds.get(request.topic)
        if feed is None:
            raise NotFound(f"there is no feed {request.topic!r}")
        head = self._head(request.branch)
        upto, prefix = "", tree.clean(request.prefix)
        if request.limit and request.branch == MASTER:
            leaves, upto = self._page(prefix, request.after, request.limit)
        else:
            leaves = await self._below(request.branch, prefix)
            if (size := tree.size_of(leaves)) > MAX_ANSWER_BYTES:
                raise Refused(f"there are {size} bytes below {prefix or 'the root'}", hint="ask for a part of them")
        return Leaves(
            leaves=leaves,
            commit=_hex(head),
            epoch=feed.epoch,
            number=feed.number,
            serial=self._writer.serial,
            upto=upto,
        )

    def _page(self, prefix: str, after: str, limit: int) -> tuple[dict[str, str], str]:
        """Return leaves of master below a path, and the latest name, "" if there are no more."""
        start = f"{prefix}/" if prefix else ""
        hidden, waiting = self._writer.hidden, dict[str, dict[str, str | None]]()
        for path, value in self._statistics.below(prefix).items():
            waiting.setdefault(path.removeprefix(start).partition("/")[0], {})[path] = value
        names = self._state.tree.sorted_names_below(prefix)
        others = {*hidden.names_below(prefix), *waiting}
        if any(name not in self._state.tree.names_below(prefix) for name in others):
            names = sorted({*names, *others})
        leaves: dict[str, str] = {}
        size = 0
        for name in islice(names, bisect_right(names, after), None):
            found = self._state.tree.below(start + name)
            if name in others:
                found = _as_it_was(found, hidden.below(start + name) | waiting.get(name, {}))
            more = tree.size_of(found)
            if len(leaves) >= limit or (leaves and size + more > PAGE_BYTES):
                return leaves, after
            after = name
            if more > PAGE_BYTES and prefix == VM_ROOT:
                log.warning("VM left out of the feed, because it is too large", uuid=name, bytes=more)
                continue  # written before there was a limit: it must not keep the others from those who ask
            leaves |= found
            size += more
        return leaves, ""

    async def _below(self, branch: str, prefix: str) -> dict[str, str]:
        """Return leaves; those of master without waiting, so that they fit to the numbers of the feeds."""
        head = self._head(branch)
        if branch != MASTER:
            return await self._in_past(lambda past: past.leaves(head, prefix))
        return _as_it_was(self._state.tree.below(prefix), self._unlike_the_tree(prefix))

    def _unlike_the_tree(self, prefix: str) -> dict[str, str | None]:
        """Return what readers of master see at or below a path that is not what the tree in memory has.

        What is staged is hidden from them; statistics that wait for their commit are shown.
        """
        return self._writer.hidden.below(prefix) | self._statistics.below(prefix)

    async def log(self, request: Log) -> History:
        """Answer Log."""
        path, head = tree.clean(request.path), self._head(request.branch)

        def scan(past: Repository) -> History:
            commits: list[Commit] = []
            for scanned, record in enumerate(past.log(head) if head is not None else ()):
                if len(commits) >= request.limit or scanned >= MAX_LOG_SCAN:
                    break
                if not path or past.touches(record, path):
                    commits.append(_commit(record))
            return History(commits=commits)

        return await self._in_past(scan)

    async def diff(self, request: Diff) -> Difference:
        """Answer Diff."""

        def compare(past: Repository) -> Difference:
            old, new = past.resolve(request.old), past.resolve(request.new)
            changes = _changes(past.differing(old, new, tree.clean(request.prefix)))
            if (size := _size(changes)) > MAX_ANSWER_BYTES:
                raise Refused(f"the difference has {size} bytes", hint="ask for that below a path")
            return Difference(changes=changes)

        return await self._in_past(compare)

    async def changes_since(self, request: ChangesSince) -> ChangesList:
        """Answer ChangesSince."""
        head, prefix = self._head(request.branch), tree.clean(request.prefix)

        def collect(past: Repository) -> ChangesList:
            since = past.resolve(request.since) if request.since else None
            newer: list[Id] = []
            for id in past.first_parents(head) if head is not None else ():
                if id == since:
                    break
                newer.append(id)
            else:
                if since is not None:
                    raise Conflict(
                        f"the commit {request.since} is not in the history of {request.branch}",
                        hint="begin again from what there is now",
                    )
            page = newer[::-1][: request.limit]
            commits: list[CommitChanges] = []
            upto, size = since, 0
            for id in page:
                record = past.commit(id)
                changes = _changes(past.differing(record.parents[0] if record.parents else None, id, prefix))
                size += _size(changes)
                if commits and size > PAGE_BYTES:
                    break
                if changes:
                    commits.append(CommitChanges(commit=_commit(record), changes=changes))
                upto = id
            return ChangesList(commits=commits, upto=_hex(upto), more=bool(newer) and upto != newer[0])

        return await self._in_past(collect)

    async def list_branches(self, _: ListBranches) -> BranchList:
        """Answer ListBranches."""
        feed = self._feed.feeds[HEADS]
        epoch, number, heads = feed.epoch, feed.number, dict(self._writer.heads)
        listed = await self._in_past(
            lambda past: [Branch(name=name, commit=_commit(past.commit(id))) for name, id in sorted(heads.items())]
        )
        return BranchList(branches=listed, epoch=epoch, number=number)

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

    async def create_branch(self, request: CreateBranch) -> Message:
        """Answer CreateBranch."""
        await self.keeper.try_to_flush()  # a branch of master begins with the statistics of now
        return await self._counted(self._writer.create_branch(request))

    async def delete_branch(self, request: DeleteBranch) -> Message:
        """Answer DeleteBranch."""
        return await self._counted(self._writer.delete_branch(request))

    def record(self, request: Record) -> Done:
        """Answer Record."""
        _refuse(access.record_refusal(request.service, request.values))
        new = sum(self._statistics.get(path) is None for path in request.values)
        if len(self._statistics) + new > MAX_RECORDED:
            raise Refused("too many statistics wait to be committed")
        counted: dict[str, int] = {}
        for path, value in request.values.items():
            if self._counts(path, counted):
                self._statistics.record({path: value}, request.service)
        return Done()

    def _counts(self, path: str, counted: dict[str, int]) -> bool:
        """Say whether a statistic is kept: it is there already, or there are not too many of its VM or of its kind.

        `counted` is for the paths of one request: how many names there are below a path, counted once.
        """
        held, vm = self._state.tree, access.vm_of_statistic(path)
        if held.get(path) is not None or self._statistics.get(path) is not None:
            return True
        below, most = f"{STATS_ROOT}/{vm}/dns", MAX_STATISTICS_NAMES
        if not held.names_below(f"{VM_ROOT}/{vm}"):  # it was removed just now; or it was made up
            below, most = STATS_ROOT, len(held.names_below(VM_ROOT)) + MAX_STATISTICS_OF_NOBODY
        if below not in counted:
            counted[below] = self._statistics_below(below)
        name = path.removeprefix(f"{below}/").partition("/")[0]
        if name not in held.names_below(below) and name not in self._statistics.names_below(below):
            if counted[below] >= most:
                return False
            counted[below] += 1
        return counted[below] <= most

    def _statistics_below(self, path: str) -> int:
        """Return how many names there are below a path, with those that wait to be committed."""
        held = self._state.tree.names_below(path)
        return len(held) + sum(name not in held for name in self._statistics.names_below(path))

    async def push(self, request: Push) -> Applied:
        """Answer Push."""
        _refuse(access.operator_refusal(identity.parse(request.author), "push"))
        await self.keeper.try_to_flush()  # a backup has the statistics of now
        head = self._head(request.branch)
        if head is None:
            raise NotFound(f"the branch {request.branch} has no commit yet")
        return Applied(commit=_hex(await self._remotes.push(request.remote, request.branch)), changed=0)

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
        _refuse(access.operator_refusal(identity.parse(request.author), "pull"))
        check_branch_name(request.branch)
        fetched = await self._remotes.fetch(request.remote, request.branch)
        self._repository.reopen()  # so that it sees what has come
        return fetched

    async def commit_for_ever(self) -> None:
        """Carry out what changes the repository, until cancelled; readers are served from the start."""
        more = True
        while more:
            more = self._state.prepare(PREPARED_VMS) or self._state.find_clashes(PREPARED_VMS)
            await asyncio.sleep(0)  # the loop's turn
        for uuid, fault in self._state.faults().items():
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
        """Tell the feeds of a commit."""
        if landed.branch == MASTER:
            for topic, prefix in tree.TOPICS.items():
                items, size = {}, 0
                for path, change in landed.changes.items():
                    if path.startswith(prefix):
                        items[path], size = change, size + len(path)
                        if size > MAX_ITEM_BYTES:
                            break
                if items:
                    self._commits.labels(topic).inc()
                if size > MAX_ITEM_BYTES:
                    self._feed.skip(topic)
                elif items or (topic == VM_TOPIC and landed.serial != self._told_serial):
                    committed = Committed(commit=landed.commit, changes=_changes(items), serial=landed.serial)
                    self._feed.publish(topic, committed)
            self._told_serial = landed.serial
        self._feed.publish(HEADS, HeadMoved(branch=landed.branch, commit=landed.commit))
        if landed.changes:
            self._tell(len(landed.changes))

    async def _counted(self, work: Awaitable[Message]) -> Message:
        try:
            return await work
        except JitsuError as error:
            self._refused.labels(error.code).inc()
            raise

    def _head(self, branch: str) -> Id | None:
        head = self._writer.heads.get(branch)
        if head is None and branch != MASTER:
            raise NotFound(f"there is no branch {branch[:100]!r}", hint="`jitsu branch` lists them")
        return head

    async def _in_past(self, work: Callable[[Repository], T]) -> T:
        def run() -> T:
            self._past.reopen()
            return work(self._past)

        return await self._history.run(run)


def _commit(record: CommitRecord) -> Commit:
    return Commit(id=record.id.hex(), ts=record.ts, author=record.author, message=record.message)


def _changes(differing: Mapping[str, tuple[str | None, str | None]]) -> list[Change]:
    return [Change(path=path, value=new, old=old) for path, (old, new) in differing.items()]


def _size(changes: list[Change]) -> int:
    return sum(len(each.path) + len(each.value or "") + len(each.old or "") for each in changes)


def _as_it_was(leaves: dict[str, str], before: Mapping[str, str | None]) -> dict[str, str]:
    """Return leaves with the values that they had before, None for those that were not there."""
    for path, value in before.items():
        if value is None:
            leaves.pop(path, None)
        else:
            leaves[path] = value
    return leaves


def _hex(id: Id | None) -> str:
    return "" if id is None else id.hex()


def _refuse(reason: str) -> None:
    if reason:
        raise Refused(reason)
