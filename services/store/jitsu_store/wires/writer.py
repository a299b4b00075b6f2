"""All that changes the repository, one thing after the other; what has come meanwhile goes to the disk together.

    job taken        decided on the loop: who may, what was expected, whether the result is valid     else refused
    staged           its commit is made in memory, on top of what was staged before it
                     (both in pieces: for ten thousand VMs they take seconds, and others are answered in between)
    written          one pack for all that is staged, brought to the disk on another thread           else all refused
    moved            the branches stand at the new commits (each compared with where it stood)        else all refused
    landed           the callers are answered, the feeds told

What is judged or staged is hidden from readers until it has landed.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.messages import MASTER, Applied, Apply, CreateBranch, DeleteBranch, Done, Merge, Message
from jitsu_protocol.model import identity
from jitsu_protocol.model.errors import BadRequest, Conflict, JitsuError, NotFound, Refused
from jitsu_protocol.model.vm import VM_ROOT
from jitsu_store.git.commits import CommitDraft, credible_serial
from jitsu_store.git.steps import PIECE
from jitsu_store.rules import access, merge, tree
from jitsu_store.rules.hidden import Hidden
from jitsu_store.rules.refusals import (
    check_branch_name,
    check_texts,
    conflict,
    invalid,
    overlap,
    refuse,
    shown,
    too_many,
)
from jitsu_store.rules.scratch import ScratchBranches
from jitsu_store.wires.turns import in_pieces

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from jitsu_runtime.clock import Clock
    from jitsu_store.git.objects import Id
    from jitsu_store.git.steps import Steps
    from jitsu_store.rules.tree import Changes
    from jitsu_store.rules.validate import State
    from jitsu_store.wires.repository import Repository
    from jitsu_store.wires.scratch import ScratchList
    from jitsu_store.wires.storage import Worker

MAX_BATCH_JOBS = 64
MAX_WAITING_JOBS = 10_000
REQUESTS_KEPT = 1000
REQUESTS_SOUGHT_COMMITS = 2000
"""How far back a store that starts looks for the requests that were carried out already."""

log = structlog.get_logger("store")


@dataclass(frozen=True)
class Landed:
    """A commit that is on the disk, and what it changed: path -> (value before, value after)."""

    branch: str
    commit: str
    changes: Mapping[str, tuple[str | None, str | None]]
    serial: int = 0
    """The zones' serial, of a commit on master."""


@dataclass
class _Batch:
    """What is staged."""

    heads: dict[str, Id | None]
    """Where branches stand with all that is staged; None for one that is deleted."""
    serial: int
    landing: list[Landed] = field(default_factory=list)
    undo: list[Changes] = field(default_factory=list)
    """What takes the staged changes of master back."""
    requests: dict[str, tuple[str, int]] = field(default_factory=dict)
    moved: str = ""
    """The branch that the job at hand has moved."""
    scratch: dict[str, float | None] = field(default_factory=dict)
    """Scratch branches that were asked for, with the time; None for branches that are none from now on."""


@dataclass(frozen=True)
class _Job:
    """One request: what decides and stages it, and who waits for the answer."""

    decide: Callable[[_Batch], Awaitable[Message]]
    future: asyncio.Future[Message]

    def answer(self, reply: Message | JitsuError) -> None:
        if self.future.done():
            return  # its caller has given up
        if isinstance(reply, JitsuError):
            self.future.set_exception(reply)
        else:
            self.future.set_result(reply)


class Writer:
    """The queue of changes, and the branches."""

    def __init__(
        self,
        repository: Repository,
        state: State,
        scratch: ScratchList,
        disk: Worker,
        clock: Clock,
        landed: Callable[[Landed], None],
    ) -> None:
        """`scratch` is the list of the branches that `repository` has now; `landed` is told what to publish."""
        self.repository = repository
        self.state = state
        self.heads: dict[str, Id] = repository.branches()
        self.scratch = scratch
        self.serial = 1
        """Of the zones: grows with each change of what they are made from, to the time if that is more; never falls."""
        self.hidden = Hidden()
        """What master had at the paths that are judged or staged, until they have landed."""
        self._disk = disk
        self._clock = clock
        self._landed = landed
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue(MAX_WAITING_JOBS)
        self._requests: OrderedDict[str, tuple[str, int]] = OrderedDict()
        self._look_back()

    def _look_back(self) -> None:
        """Take requests and serial from the trailers of master's latest commits, as far as this store made them.

        A merge's first parent is our side. What it merged may come from anywhere, and its trailers count for nothing.
        """
        head = self.heads.get(MASTER)
        if head is None:
            return
        found: list[tuple[str, tuple[str, int]]] = []
        for count, id in enumerate(self.repository.first_parents(head)):
            if count >= REQUESTS_SOUGHT_COMMITS or len(found) >= REQUESTS_KEPT:
                break
            record = self.repository.commit(id)
            self.serial = max(self.serial, record.serial)
            if record.request:
                found.append((record.request, (record.id.hex(), 0)))
            if record.is_on_foreign:
                break
        self._requests.update(reversed(found))

    # --- what can be asked for ---

    async def apply(self, request: Apply) -> Message:
        """Answer Apply."""
        check_texts(request)
        return await self._do(lambda batch: self._apply(request, batch))

    async def merge(self, request: Merge, fetched: Id | None = None) -> Message:
        """Answer Merge; `fetched` is the commit to merge if the branch is one of another repository."""
        check_texts(request)
        return await self._do(lambda batch: self._merge(request, fetched, batch))

    async def create_branch(self, request: CreateBranch) -> Message:
        """Answer CreateBranch."""
        return await self._do(lambda batch: self._create_branch(request, batch))

    async def delete_branch(self, request: DeleteBranch) -> Message:
        """Answer DeleteBranch."""
        return await self._do(lambda batch: self._delete_branch(request, batch))

    async def delete_old_scratch(self) -> None:
        """Delete the scratch branches that nobody has asked for lately; raises JitsuError."""
        for name in self.scratch.branches.due(self._clock.wall()):
            await self._do(partial(self._delete_old, name))

    async def record(self, values: Mapping[str, str], services: str) -> None:
        """Commit statistics."""
        await self._do(lambda batch: self._record(values, services, batch))

    async def _do(self, job: Callable[[_Batch], Awaitable[Message]]) -> Message:
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        await self._jobs.put(_Job(job, future))
        return await future

    # --- the queue ---

    async def run(self) -> None:
        """Carry out jobs until cancelled."""
        while True:
            jobs = [await self._jobs.get()]
            while len(jobs) < MAX_BATCH_JOBS and not self._jobs.empty():
                jobs.append(self._jobs.get_nowait())
            # What fails on the disk is tried again alone, so that only the job that is at fault is refused.
            for job in await self._carry_out(jobs):
                await self._carry_out([job])

    async def _carry_out(self, jobs: list[_Job]) -> list[_Job]:
        """Decide, land and answer; returns those of several jobs that did not land."""
        batch = _Batch(dict(self.heads), self.serial)
        decided: list[tuple[_Job, str, Message | JitsuError]] = []
        for job in jobs:
            if job.future.done():
                continue
            batch.moved = ""
            try:
                reply: Message | JitsuError = await job.decide(batch)
            except JitsuError as error:
                reply = error
            decided.append((job, batch.moved, reply))
        failed, landed = await self._land(batch)
        again: list[_Job] = []
        for job, branch, reply in decided:
            if failed is None or not branch or branch in landed or isinstance(reply, JitsuError):
                job.answer(reply)
            elif len(jobs) > 1:
                again.append(job)
            else:
                job.answer(failed)
        return again

    async def _land(self, batch: _Batch) -> tuple[JitsuError | None, set[str]]:
        """Bring a batch to the disk and publish it; returns why not, and which branches have moved all the same."""
        moves = {
            branch: (self.heads.get(branch), new)
            for branch, new in batch.heads.items()
            if new != self.heads.get(branch)
        }
        failed: JitsuError | None = None
        landed = set(moves)
        try:
            if moves or batch.scratch:
                await self._disk.run(self._to_disk(batch, moves))
                self.repository.landed()
        except JitsuError as error:
            failed, landed = error, {branch for branch, (_, new) in moves.items() if self._stands(branch, new)}
            if MASTER not in landed:
                for undo in reversed(batch.undo):
                    await in_pieces(self.state.undo_steps(undo))
        finally:
            self.hidden.clear()
            self.repository.drop_staged()
        self._note(batch, {branch: moves[branch][1] for branch in landed})
        self.scratch.branches.put({n: at for n, at in batch.scratch.items() if failed is None or n in landed})
        return failed, landed

    def _to_disk(self, batch: _Batch, moves: Mapping[str, tuple[Id | None, Id | None]]) -> Callable[[], None]:
        """Return what brings a batch to the disk, for another thread."""
        staged, there = self.repository.staged(), {name for name, head in batch.heads.items() if head is not None}
        wanted = ScratchBranches(self.scratch.branches.since())
        wanted.put(batch.scratch)

        def work() -> None:
            self.scratch.save(wanted.since(), there)
            if moves:
                self.repository.land(staged, moves)

        return work

    def _stands(self, branch: str, head: Id | None) -> bool:
        """Say whether a landing that failed has moved this branch before it did."""
        try:
            return self.repository.head(branch) == head
        except JitsuError:
            return False

    def _note(self, batch: _Batch, moved: Mapping[str, Id | None]) -> None:
        """Take up where branches stand now, and publish it."""
        for branch, head in moved.items():
            if head is None:
                self.heads.pop(branch, None)
            else:
                self.heads[branch] = head
        if MASTER in moved:
            self.serial = batch.serial
        published = [landed for landed in batch.landing if landed.branch in moved]
        commits = {landed.commit for landed in published}
        self._requests.update({id: found for id, found in batch.requests.items() if found[0] in commits})
        while len(self._requests) > REQUESTS_KEPT:
            self._requests.popitem(last=False)
        for landed in published:
            self._landed(landed)
        told = {landed.branch for landed in published}
        for branch, head in moved.items():
            if branch not in told:
                self._landed(Landed(branch, head.hex() if head is not None else "", {}))

    # --- one job each: decide, and stage ---

    async def _apply(self, request: Apply, batch: _Batch) -> Applied:
        if (earlier := self._earlier(request.request, batch)) is not None:
            return earlier
        head = self._head(request.branch, batch)
        who = identity.parse(request.author)
        asked = tree.wanted(request.changes)
        refuse(access.write_refusal(who, request.branch, asked, self._names_of(who)))
        if request.base and (head is None or request.base != head.hex()):
            now = head.hex() if head is not None else "nothing"
            raise Conflict(
                f"{request.branch} has changed: it is at {now}, not at {request.base}",
                details=[{"path": path, "value": self._current(request.branch, head, path)} for path in sorted(asked)],
            )
        await in_pieces(self._check_expected(request, head))
        old = await in_pieces(self._values(request.branch, head, asked))
        changes = {path: value for path, value in asked.items() if old[path] != value}
        if not changes:
            return Applied(commit=head.hex() if head is not None else "", changed=0)
        parents = () if head is None else (head,)
        return await self._stage(request.branch, parents, changes, who, request.message, request.request, batch)

    async def _merge(self, request: Merge, fetched: Id | None, batch: _Batch) -> Applied:
        if (earlier := self._earlier(request.request, batch)) is not None:
            return earlier
        who = identity.parse(request.author)
        ours = self._head(request.into, batch)
        theirs = fetched or self._head(request.branch, batch)
        if theirs is None:
            raise NotFound(f"the branch {request.branch} has no commit")
        base = None if ours is None else self.repository.merge_base(ours, theirs)
        changed = await in_pieces(self.repository.differing_steps(base, theirs))
        refuse(access.merge_refusal(who, request.branch, request.into, changed, self._names_of(who)))
        if base == theirs and ours is not None:
            return Applied(commit=ours.hex(), changed=0)
        merged = merge.merge(changed, lambda path: self._current(request.into, ours, path))
        if merged.conflicts:
            raise conflict(merged.conflicts, request.branch, request.into)
        parents = (theirs,) if ours is None else (ours, theirs)
        message = request.message or f"Merge {request.branch} into {request.into}"
        if ours is None and request.into == MASTER:
            # A backup comes back: without a master, all commits are another store's. Secondaries know its serial, which
            # may be ahead of the clock.
            batch.serial = max(batch.serial, credible_serial(self.repository.commit(theirs).serial, self._clock.wall()))
        return await self._stage(request.into, parents, merged.changes, who, message, request.request, batch)

    async def _create_branch(self, request: CreateBranch, batch: _Batch) -> Applied:
        who = identity.parse(request.author)
        check_branch_name(request.name)
        refuse(access.branch_refusal(who, request.name))
        start = batch.heads.get(request.start) or self.repository.resolve(request.start)
        there = batch.heads.get(request.name)
        if there is not None and there != start:
            raise Conflict(f"there is a branch {request.name} already, at {there.hex()}")
        if any(overlap(request.name, name) for name in batch.heads if name != request.name):
            raise BadRequest(f"{request.name} and another branch cannot be a file and a directory at once")
        if request.scratch and request.name == MASTER:
            raise BadRequest(f"{MASTER} is what runs: it cannot be a scratch branch")
        if there is None:
            refuse(too_many(who, [name for name, head in batch.heads.items() if head is not None]))
        if there is None or self._is_scratch(request.name, batch):
            batch.scratch[request.name] = self._clock.wall() if request.scratch else None
        batch.heads[request.name] = start
        batch.moved = request.name
        return Applied(commit=start.hex(), changed=0)

    async def _delete_branch(self, request: DeleteBranch, batch: _Batch) -> Done:
        who = identity.parse(request.author)
        refuse(access.branch_refusal(who, request.name))
        if request.name == MASTER:
            raise Refused(f"{MASTER} is what runs: it is not deleted")
        return self._delete(request.name, batch)

    async def _delete_old(self, name: str, batch: _Batch) -> Done:
        """Delete a scratch branch unless it has been asked for just now."""
        is_old = name not in batch.scratch and name in self.scratch.branches.due(self._clock.wall())
        return self._delete(name, batch) if is_old else Done()

    def _delete(self, name: str, batch: _Batch) -> Done:
        if self._is_scratch(name, batch):
            batch.scratch[name] = None
        if name in batch.heads:
            batch.heads[name] = None
            batch.moved = name
        return Done()

    def _is_scratch(self, name: str, batch: _Batch) -> bool:
        """Say whether this is a scratch branch, with all that is staged."""
        return batch.scratch[name] is not None if name in batch.scratch else name in self.scratch.branches

    async def _record(self, values: Mapping[str, str], services: str, batch: _Batch) -> Done:
        held = self.state.tree
        changes: Changes = {p: v for p, v in values.items() if held.get(p) != v and not held.blocked(p)}
        if changes:
            head = batch.heads.get(MASTER)
            who = identity.Identity(identity.Role.SERVICE, services)
            await self._stage(MASTER, () if head is None else (head,), changes, who, "Statistics", "", batch)
        return Done()

    # --- what jobs have in common ---

    def _earlier(self, request: str, batch: _Batch) -> Applied | None:
        found = self._requests.get(request) or batch.requests.get(request)
        return None if found is None else Applied(commit=found[0], changed=found[1])

    def _head(self, branch: str, batch: _Batch) -> Id | None:
        head = batch.heads.get(branch)
        if head is None and branch != MASTER:
            raise NotFound(f"there is no branch {branch[:100]!r}", hint="`jitsu branch` lists them, and makes one")
        return head

    def _names_of(self, who: identity.Identity) -> frozenset[str]:
        """Return the names that a VM has on master, whatever its branch says."""
        if who.role is not identity.Role.VM:
            return frozenset()
        return access.names_of(who, self.state.tree.below(f"{VM_ROOT}/{who.name}"))

    def _current(self, branch: str, head: Id | None, path: str) -> str | None:
        if branch == MASTER:
            return self.state.tree.get(path)
        return None if head is None else self.repository.value(head, path)

    def _values(self, branch: str, head: Id | None, paths: Iterable[str]) -> Steps[Changes]:
        """Return what a branch has at these paths."""
        found: Changes = {}
        rest = iter(paths)
        while piece := list(islice(rest, PIECE)):
            if branch == MASTER:
                found |= self.state.tree.values(piece)
            else:
                found |= {path: self._current(branch, head, path) for path in piece}
            yield
        return found

    def _check_expected(self, request: Apply, head: Id | None) -> Steps[None]:
        wrong = []
        for number, (path, expected) in enumerate(request.expect.items(), 1):
            if number % PIECE == 0:
                yield
            value = self._current(request.branch, head, tree.clean(path))
            if value != expected:
                wrong.append({"path": path, "expected": expected, "value": value})
        if wrong:
            lines = [f"{each['path']} is {shown(each['value'])}, not {shown(each['expected'])}" for each in wrong]
            raise Conflict("\n".join(lines), details=wrong)

    async def _stage(
        self,
        branch: str,
        parents: tuple[Id, ...],
        changes: Changes,
        who: identity.Identity,
        message: str,
        request: str,
        batch: _Batch,
    ) -> Applied:
        """Try the changes, and make the commit; raises Invalid with every reason."""
        head = batch.heads.get(branch)
        old = await in_pieces(self._values(branch, head, changes))
        ts, serial = self._clock.wall(), 0
        if branch == MASTER:
            serial = batch.serial
            if any(path.startswith(tree.ZONES_FROM) for path in changes):
                serial = max(serial + 1, int(ts))
        hiding: list[str] = []
        undo: Changes = {}
        try:
            if branch == MASTER:
                hiding = self.hidden.put(old)
                undo, reasons = await in_pieces(self.state.put_steps(changes))
            else:
                reasons = await self._reasons_apart(head, changes, batch)
            if reasons:
                raise invalid(reasons)
            commit = await in_pieces(
                self.repository.stage_steps(
                    CommitDraft(
                        parents,
                        author=str(who),
                        message=message,
                        ts=ts,
                        request=request,
                        serial=serial,
                        is_on_foreign=branch == MASTER and batch.heads.get(MASTER) is None and bool(parents),
                    ),
                    changes,
                )
            )
        except JitsuError:
            await in_pieces(self.state.undo_steps(undo))
            self.hidden.drop(hiding)
            raise
        if branch == MASTER:
            batch.undo.append(undo)
            batch.serial = serial
        batch.heads[branch] = commit
        batch.moved = branch
        batch.landing.append(Landed(branch, commit.hex(), {p: (old[p], new) for p, new in changes.items()}, serial))
        if request:
            batch.requests[request] = (commit.hex(), len(changes))
        return Applied(commit=commit.hex(), changed=len(changes))

    async def _reasons_apart(self, head: Id | None, changes: Changes, batch: _Batch) -> list[str]:
        """Return what is wrong with changes of another branch than master: the state is made to be that branch's."""
        apart = await in_pieces(self.repository.differing_steps(batch.heads.get(MASTER), head))
        theirs = {path: value for path, (_, value) in apart.items()}
        hiding = self.hidden.put(await in_pieces(self._values(MASTER, None, dict.fromkeys([*theirs, *changes]))))
        back, _ = await in_pieces(self.state.put_steps(theirs))
        undo, reasons = await in_pieces(self.state.put_steps(changes))
        for each in (undo, back):
            await in_pieces(self.state.undo_steps(each))
        self.hidden.drop(hiding)
        return reasons
