"""One batch of changes: what each request makes of the history, decided before anything is on the disk.

`Standing` is what has landed: the tree of master in memory, where the branches are, the serial of the zones, and which
requests have been carried out. A `Batch` begins with that and decides one request after the other, each on top of the
ones before it:

    may its author do that                 permissions (access.py)                                    else Refused
    has it been carried out already        by the id of the request: the answer is the one of then
    is everything as it expects            the head of the branch, single values                      else Conflict
    what does it change                    a merge is three-way (merge.py)                            else Conflict
    is the result valid                    tried on the tree in memory (validate.py)                  else Invalid
    its commit                             made in memory, with the next serial if it changes zones

A request that is refused leaves the batch as it was. What the tree in memory has from the batch is hidden from readers
until it has landed (hidden.py). If it does not land, `undo_steps` takes it back; if it does, `Standing.land` makes it
what stands, and returns what is to be published.

Nothing here waits for anything. What takes long is done in steps (git/steps.py), so that readers are answered in
between.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from jitsu_protocol.messages import MASTER, Applied, Described, Done
from jitsu_protocol.model import identity
from jitsu_protocol.model.errors import BadRequest, Conflict, JitsuError, NotFound, Refused
from jitsu_protocol.model.labels import branch_of
from jitsu_protocol.model.vm import VM_ROOT
from jitsu_store.git.commits import CommitDraft, Trailers, credible_serial
from jitsu_store.git.steps import PIECE
from jitsu_store.rules import access, labels, merge, tree
from jitsu_store.rules.hidden import Hidden
from jitsu_store.rules.refusals import (
    check_branch_name,
    conflict,
    invalid,
    overlap,
    refuse,
    too_many,
    unexpected,
)
from jitsu_store.rules.scratch import ScratchBranches

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from jitsu_protocol.messages import Apply, CreateBranch, DeleteBranch, Describe, Merge
    from jitsu_store.git.commits import CommitRecord
    from jitsu_store.git.objects import Id
    from jitsu_store.git.steps import Steps
    from jitsu_store.rules.tree import Changes
    from jitsu_store.rules.validate import State

REQUESTS_KEPT = 1000
REQUESTS_SOUGHT_COMMITS = 2000
"""How far back a store that starts looks for the requests that were carried out already."""


class Commits(Protocol):
    """The commits that there are, and the making of new ones. All methods may raise JitsuError."""

    def resolve(self, revision: str) -> Id:
        """Return the commit that a branch or the beginning of an id means; raises NotFound."""

    def commit(self, id: Id) -> CommitRecord:
        """Return a commit."""

    def first_parents(self, head: Id) -> Iterator[Id]:
        """Yield a commit, the one that it was made on, and so on."""

    def merge_base(self, one: Id, other: Id) -> Id | None:
        """Return the latest commit that both come from."""

    def value(self, commit: Id, path: str) -> str | None:
        """Return the value at a path, None if there is none."""

    def differing_steps(self, old: Id | None, new: Id | None) -> Steps[dict[str, tuple[str | None, str | None]]]:
        """Return in what two commits differ: path -> (value before, value after)."""

    def stage_steps(self, draft: CommitDraft, changes: Mapping[str, str | None]) -> Steps[Id]:
        """Make a commit on the first parent of the draft, in memory, and return its id."""


@dataclass(frozen=True)
class Landed:
    """A commit that is on the disk, and what it changed: path -> (value before, value after)."""

    branch: str
    commit: str
    changes: Mapping[str, tuple[str | None, str | None]]
    serial: int = 0
    """The zones' serial, of a commit on master."""


class Standing:
    """What has landed."""

    def __init__(self, state: State, heads: dict[str, Id], scratch: ScratchBranches) -> None:
        self.state = state
        """Master as it is in memory; with what is being decided or on its way to the disk."""
        self.hidden = Hidden()
        """What master had at the paths that are being decided or on their way to the disk."""
        self.heads = heads
        self.scratch = scratch
        self.serial = 1
        """Of the zones: grows with each change of what they are made from, to the time if that is more; never falls."""
        self._requests: OrderedDict[str, tuple[str, int]] = OrderedDict()
        """Id of a request that was carried out -> its commit, and how many values it changed."""

    def look_back(self, history: Commits) -> None:
        """Take requests and serial from the trailers of master's latest commits, as far as this store made them.

        A merge's first parent is our side. What it merged may come from anywhere, and its trailers count for nothing.
        """
        head = self.heads.get(MASTER)
        if head is None:
            return
        found: list[tuple[str, tuple[str, int]]] = []
        for id in islice(history.first_parents(head), REQUESTS_SOUGHT_COMMITS):
            if len(found) >= REQUESTS_KEPT:
                break
            record = history.commit(id)
            self.serial = max(self.serial, record.serial)
            if record.request:
                found.append((record.request, (record.id.hex(), 0)))
            if record.is_on_foreign:
                break
        self._requests.update(reversed(found))

    def earlier(self, request: str) -> tuple[str, int] | None:
        """Return the commit that a request has made already, and how many values it changed."""
        return self._requests.get(request)

    def land(self, batch: Batch, moved: Mapping[str, Id | None], *, is_whole: bool = True) -> list[Landed]:
        """Make what a batch has decided for these branches what stands; returns what to publish, in order.

        `is_whole` is false if the disk failed after it had moved only these.
        """
        for branch, head in moved.items():
            if head is None:
                self.heads.pop(branch, None)
            else:
                self.heads[branch] = head
        if MASTER in moved:
            self.serial = batch.serial
        self.scratch.put({name: at for name, at in batch.scratch.items() if is_whole or name in moved})
        landed = [each for each in batch.landing if each.branch in moved]
        commits = {each.commit for each in landed}
        self._requests.update({id: found for id, found in batch.requests.items() if found[0] in commits})
        while len(self._requests) > REQUESTS_KEPT:
            self._requests.popitem(last=False)
        published = {each.branch for each in landed}
        others = [
            Landed(branch, head.hex() if head is not None else "", {})
            for branch, head in moved.items()
            if branch not in published
        ]
        return landed + others


class Batch:
    """What is decided and not on the disk yet.

    Each request is one method, which returns the answer to its caller or raises a JitsuError. `moved` is
    then the branch that it has moved, if any.
    """

    def __init__(self, standing: Standing, history: Commits) -> None:
        self._standing = standing
        self._state = standing.state
        self._history = history
        self.heads: dict[str, Id | None] = dict(standing.heads)
        """Where branches are with all that is decided; None for one that is deleted."""
        self.serial = standing.serial
        self.landing: list[Landed] = []
        self.requests: dict[str, tuple[str, int]] = {}
        self.scratch: dict[str, float | None] = {}
        """Scratch branches that were asked for, with the time; None for branches that are none from now on."""
        self.moved = ""
        self._undo: list[Changes] = []
        """What takes the changes of master back, oldest first."""

    def moves(self) -> dict[str, tuple[Id | None, Id | None]]:
        """Return the branches that are to move: name -> (from, to), None for a branch that does not exist."""
        before = self._standing.heads
        # Master first: if the disk fails in between, the next Describe finds in it what the label branch does not have.
        branches = sorted(self.heads, key=lambda branch: branch != MASTER)
        return {each: (before.get(each), self.heads[each]) for each in branches if self.heads[each] != before.get(each)}

    def scratch_wanted(self) -> ScratchBranches:
        """Return the scratch branches that there will be."""
        wanted = ScratchBranches(self._standing.scratch.since())
        wanted.put(self.scratch)
        return wanted

    def undo_steps(self) -> Steps[None]:
        """Take what was decided back out of the tree in memory: master has not moved."""
        for undo in reversed(self._undo):
            yield from self._state.undo_steps(undo)

    # --- one request each ---

    def apply(self, request: Apply, now: float) -> Steps[Applied]:
        """Decide an Apply; `now` is Unix time, as in all of these."""
        self.moved = ""
        if (earlier := self._earlier(request.request)) is not None:
            return earlier
        head = self._head(request.branch)
        who = identity.parse(request.author)
        asked = tree.wanted(request.changes)
        refuse(access.write_refusal(who, request.branch, asked, self._names_of(who)))
        if request.base and (head is None or request.base != head.hex()):
            raise Conflict(
                f"{request.branch} has changed: it is at {head.hex() if head else 'nothing'}, not at {request.base}",
                details=[{"path": path, "value": self._current(request.branch, head, path)} for path in sorted(asked)],
            )
        yield from check_expected(request, lambda path: self._current(request.branch, head, path))
        old = yield from self._values(request.branch, head, asked)
        changes = {path: value for path, value in asked.items() if old[path] != value}
        if not changes:
            return Applied(commit=head.hex() if head is not None else "", changed=0)
        return (
            yield from self._stage(request.branch, changes, _draft(head, who, request.message, now, request.request))
        )

    def merge(self, request: Merge, fetched: Id | None, now: float) -> Steps[Applied]:
        """Decide a Merge; `fetched` is the commit to merge if the branch is one of another repository."""
        self.moved = ""
        if (earlier := self._earlier(request.request)) is not None:
            return earlier
        who = identity.parse(request.author)
        ours = self._head(request.into)
        theirs = fetched or self._head(request.branch)
        if theirs is None:
            raise NotFound(f"the branch {request.branch} has no commit")
        base = None if ours is None else self._history.merge_base(ours, theirs)
        changed = yield from self._history.differing_steps(base, theirs)
        refuse(access.merge_refusal(who, request.branch, request.into, changed, self._names_of(who)))
        if base == theirs and ours is not None:
            return Applied(commit=ours.hex(), changed=0)
        merged = merge.merge(changed, lambda path: self._current(request.into, ours, path))
        if merged.conflicts:
            raise conflict(merged.conflicts, request.branch, request.into)
        message = request.message or f"Merge {request.branch} into {request.into}"
        draft = _draft(ours, who, message, now, request.request)
        if ours is None and request.into == MASTER:
            # A backup comes back: without a master, all commits are another store's. Secondaries know its serial, which
            # may be ahead of the clock.
            self.serial = max(self.serial, credible_serial(self._history.commit(theirs).serial, now))
            draft = replace(draft, trailers=replace(draft.trailers, is_on_foreign=True))
        return (yield from self._stage(request.into, merged.changes, replace(draft, parents=(*draft.parents, theirs))))

    def describe(self, request: Describe, zones: Collection[str], now: float) -> Steps[Described]:
        """Decide a Describe; `zones` are the label zones."""
        self.moved = ""
        branch = branch_of(request.host)
        head, ours = self.heads.get(branch), self.heads.get(MASTER)
        there = yield from self._history.differing_steps(None, head)
        made = yield from labels.decide(request, there, self._state, self._standing.hidden, zones)
        commit = head
        if made.branch:
            draft = _draft(head, labels.VMD, labels.message(made), now, "")
            commit = yield from self._history.stage_steps(draft, made.branch_changes)
        if made.master:
            draft = _draft(ours, labels.VMD, f"Merge {branch}: {labels.message(made)}", now, "")
            parents = draft.parents if ours is None or commit is None else (ours, commit)
            yield from self._stage(MASTER, made.master_changes, replace(draft, parents=parents))
        if made.branch and commit is not None:
            self.heads[branch] = commit
            changed = {path: (there.get(path, ("", None))[1], new) for path, new in made.branch_changes.items()}
            self.landing.append(Landed(branch, commit.hex(), changed))
            self.moved = self.moved or branch
        at = self.heads.get(MASTER)
        return Described(commit=at.hex() if at else "", changed=len(made.master), refusals=made.refusals)

    def create_branch(self, request: CreateBranch, now: float) -> Applied:
        """Decide a CreateBranch."""
        self.moved = ""
        who = identity.parse(request.author)
        check_branch_name(request.name)
        refuse(access.branch_refusal(who, request.name))
        start = self.heads.get(request.start) or self._history.resolve(request.start)
        there = self.heads.get(request.name)
        if there is not None and there != start:
            raise Conflict(f"there is a branch {request.name} already, at {there.hex()}")
        if any(overlap(request.name, name) for name in self.heads if name != request.name):
            raise BadRequest(f"{request.name} and another branch cannot be a file and a directory at once")
        if request.scratch and request.name == MASTER:
            raise BadRequest(f"{MASTER} is what runs: it cannot be a scratch branch")
        if there is None:
            refuse(too_many(who, [name for name, head in self.heads.items() if head is not None]))
        if there is None or self._is_scratch(request.name):
            self.scratch[request.name] = now if request.scratch else None
        self.heads[request.name] = start
        self.moved = request.name
        return Applied(commit=start.hex(), changed=0)

    def delete_branch(self, request: DeleteBranch) -> Done:
        """Decide a DeleteBranch."""
        self.moved = ""
        refuse(access.branch_refusal(identity.parse(request.author), request.name))
        if request.name == MASTER:
            raise Refused(f"{MASTER} is what runs: it is not deleted")
        return self._delete(request.name)

    def delete_old(self, name: str, now: float) -> Done:
        """Delete a scratch branch, unless it has been asked for just now."""
        self.moved = ""
        is_old = name not in self.scratch and name in self._standing.scratch.due(now)
        return self._delete(name) if is_old else Done()

    def record(self, values: Mapping[str, str], services: str, now: float) -> Steps[Done]:
        """Decide a commit of statistics, which services have recorded."""
        self.moved = ""
        held = self._state.tree
        changes: Changes = {p: v for p, v in values.items() if held.get(p) != v and not held.blocked(p)}
        if changes:
            who = identity.Identity(identity.Role.SERVICE, services)
            draft = _draft(self.heads.get(MASTER), who, "Statistics", now, "")
            yield from self._stage(MASTER, changes, draft)
        return Done()

    # --- what they have in common ---

    def _earlier(self, request: str) -> Applied | None:
        found = self._standing.earlier(request) or self.requests.get(request)
        return None if found is None else Applied(commit=found[0], changed=found[1])

    def _head(self, branch: str) -> Id | None:
        head = self.heads.get(branch)
        if head is None and branch != MASTER:
            raise NotFound(f"there is no branch {branch[:100]!r}", hint="`jitsu branch` lists them, and makes one")
        return head

    def _delete(self, name: str) -> Done:
        if self._is_scratch(name):
            self.scratch[name] = None
        if name in self.heads:
            self.heads[name] = None
            self.moved = name
        return Done()

    def _is_scratch(self, name: str) -> bool:
        """Say whether this is a scratch branch, with all that is decided."""
        return self.scratch[name] is not None if name in self.scratch else name in self._standing.scratch

    def _names_of(self, who: identity.Identity) -> frozenset[str]:
        """Return the names that a VM has on master, whatever its branch says."""
        if who.role is not identity.Role.VM:
            return frozenset()
        return access.names_of(who, self._state.tree.below(f"{VM_ROOT}/{who.name}"))

    def _current(self, branch: str, head: Id | None, path: str) -> str | None:
        if branch == MASTER:
            return self._state.tree.get(path)
        return None if head is None else self._history.value(head, path)

    def _values(self, branch: str, head: Id | None, paths: Iterable[str]) -> Steps[Changes]:
        """Return what a branch has at these paths."""
        found: Changes = {}
        rest = iter(paths)
        while piece := list(islice(rest, PIECE)):
            if branch == MASTER:
                found |= self._state.tree.values(piece)
            else:
                found |= {path: self._current(branch, head, path) for path in piece}
            yield
        return found

    def _stage(self, branch: str, changes: Changes, draft: CommitDraft) -> Steps[Applied]:
        """Try the changes, and make the commit; raises Invalid with every reason."""
        head = self.heads.get(branch)
        old = yield from self._values(branch, head, changes)
        if branch == MASTER:
            commit = yield from self._stage_on_master(changes, old, draft)
        else:
            heads = (self.heads.get(MASTER), head)
            if reasons := (yield from reasons_apart(self._standing, self._history, heads, changes)):
                raise invalid(reasons)
            commit = yield from self._history.stage_steps(draft, changes)
        self.heads[branch] = commit
        self.moved = branch
        differs = {path: (old[path], new) for path, new in changes.items()}
        serial = self.serial if branch == MASTER else 0
        self.landing.append(Landed(branch, commit.hex(), differs, serial))
        if request := draft.trailers.request:
            self.requests[request] = (commit.hex(), len(changes))
        return Applied(commit=commit.hex(), changed=len(changes))

    def _stage_on_master(self, changes: Changes, old: Changes, draft: CommitDraft) -> Steps[Id]:
        serial = self.serial
        if any(path.startswith(tree.ZONES_FROM) for path in changes):
            serial = max(serial + 1, int(draft.ts))
        hiding = self._standing.hidden.put(old)
        undo: Changes = {}
        try:
            undo, reasons = yield from self._state.put_steps(changes)
            if reasons:
                raise invalid(reasons)
            commit = yield from self._history.stage_steps(
                replace(draft, trailers=replace(draft.trailers, serial=serial)), changes
            )
        except JitsuError:
            yield from self._state.undo_steps(undo)
            self._standing.hidden.drop(hiding)
            raise
        self._undo.append(undo)
        self.serial = serial
        return commit


def check_expected(request: Apply, current: Callable[[str], str | None]) -> Steps[None]:
    """Raise Conflict unless every value is the one that a request expects."""
    wrong: list[dict[str, str | None]] = []
    for number, (path, expected) in enumerate(request.expect.items(), 1):
        if number % PIECE == 0:
            yield
        value = current(tree.clean(path))
        if value != expected:
            wrong.append({"path": path, "expected": expected, "value": value})
    if wrong:
        raise unexpected(wrong)


def reasons_apart(
    standing: Standing, history: Commits, heads: tuple[Id | None, Id | None], changes: Changes
) -> Steps[list[str]]:
    """Return what is wrong with changes of another branch: the tree in memory is made that branch's for a while.

    `heads` are those of master and of that branch.
    """
    state = standing.state
    apart = yield from history.differing_steps(*heads)
    theirs = {path: value for path, (_, value) in apart.items()}
    hiding = standing.hidden.put(state.tree.values([*theirs, *changes]))
    back, _ = yield from state.put_steps(theirs)
    undo, reasons = yield from state.put_steps(changes)
    for each in (undo, back):
        yield from state.undo_steps(each)
    standing.hidden.drop(hiding)
    return reasons


def _draft(head: Id | None, who: identity.Identity, message: str, now: float, request: str) -> CommitDraft:
    return CommitDraft(() if head is None else (head,), str(who), message, now, Trailers(request))
