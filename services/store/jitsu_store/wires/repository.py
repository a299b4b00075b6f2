"""The history of the state tree: what each commit holds, and the making of new ones in memory.

A repository is made of objects and branches (`ObjectStore`), which are in Git's format but may be anywhere: in a
directory (git/object_store.py), or in the memory of a test. All that is known about them here is that commits have
trees of leaves. A new commit is staged: it stays in memory until `land` has brought it to the object store.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import contextmanager
from itertools import islice, product
from typing import TYPE_CHECKING, Protocol

from jitsu_protocol.model.errors import Conflict, DamagedStore, JitsuError, NotFound, Refused, Unavailable
from jitsu_store.git import objects
from jitsu_store.git.commits import make_commit, parse_commit
from jitsu_store.git.errors import (
    BranchLockedError,
    BranchMovedError,
    CannotOpenError,
    CannotWriteError,
    DamagedError,
    NotARepositoryError,
    RepositoryError,
)
from jitsu_store.git.objects import Directories, GitObject, Id, ObjectKind, TooLargeError
from jitsu_store.git.steps import PIECE, at_once
from jitsu_store.rules.foreign import ForeignError, Measure
from jitsu_store.rules.tree import MAX_TREE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from jitsu_store.git.commits import CommitDraft, CommitRecord
    from jitsu_store.git.steps import Steps

MIN_REVISION_CHARACTERS = 4
MANY_LEAVES = 150_000
"""From then on it is worth counting how many there are in all: another program may have made any tree."""
RECENT_KEPT = 1000
MAX_RECENT_BYTES = 4096
"""Small objects just written: an object store on the disk would have to look for their packfiles first."""


class ObjectStore(Protocol):
    """Where objects and branches are. A handle is for one thread; all methods may raise RepositoryError."""

    def reopen(self) -> None:
        """Look again at what there is: others may have added to it."""

    def heads(self) -> dict[str, Id]:
        """Return all branches: name -> latest commit."""

    def head(self, branch: str) -> Id | None:
        """Return the latest commit of a branch, None if there is no such branch."""

    def find_commit(self, prefix: str) -> Id | None:
        """Return the only commit whose id begins with these hexadecimal digits, None if there is none, or another."""

    def read(self, id: Id, kind: ObjectKind) -> bytes:
        """Return the content of an object of this kind."""

    def ancestors(self, head: Id) -> Iterator[Id]:
        """Yield a commit and its ancestors, newest first."""

    def first_parents(self, head: Id) -> Iterator[Id]:
        """Yield a commit, the one that it was made on, and so on."""

    def merge_base(self, one: Id, other: Id) -> Id | None:
        """Return the latest commit that both come from."""

    def land(self, objects: Sequence[GitObject], moves: Mapping[str, tuple[Id | None, Id | None]]) -> None:
        """Add objects, then move branches: name -> (from, to), None for a branch that does not exist.

        If it raises, nothing has happened, unless it failed between two branches: `head` says where each of them is.
        """


class Repository:
    """One handle on the history, for one thread."""

    def __init__(self, store: ObjectStore, name: str) -> None:
        """`name` is what errors call the repository: its path."""
        self.name = name
        self._store = store
        self._staged: dict[Id, GitObject] = {}
        self._recent: OrderedDict[Id, GitObject] = OrderedDict()
        self._directories = Directories(lambda id: self._load(id, ObjectKind.TREE))

    def reopen(self) -> None:
        """Look again at what there is; raises Unavailable."""
        with self._explained():
            self._store.reopen()

    # --- reading ---

    def branches(self) -> dict[str, Id]:
        """Return all branches: name -> latest commit."""
        with self._explained():
            return self._store.heads()

    def head(self, branch: str) -> Id | None:
        """Return the latest commit of a branch, None if it has none."""
        with self._explained():
            return self._store.head(branch)

    def resolve(self, revision: str) -> Id:
        """Return the commit that a branch or the beginning of an id means; raises NotFound."""
        head = self.head(revision)
        if head is not None:
            return head
        if len(revision) >= MIN_REVISION_CHARACTERS and all(c in "0123456789abcdef" for c in revision):
            found = self._store.find_commit(revision)
            if found is not None:
                return found
        raise NotFound(f"{revision[:100]!r} is neither a branch nor a commit", hint="`jitsu branch` lists the branches")

    def commit(self, id: Id) -> CommitRecord:
        """Return a commit."""
        try:
            return parse_commit(id, self._load(id, ObjectKind.COMMIT))
        except ValueError as error:
            raise explained(DamagedError(str(error), id), self.name) from None

    def log(self, head: Id) -> Iterator[CommitRecord]:
        """Yield a commit and its ancestors, newest first."""
        with self._explained():
            for id in self._store.ancestors(head):
                yield self.commit(id)

    def first_parents(self, head: Id) -> Iterator[Id]:
        """Yield a commit, the one that it was made on, and so on."""
        with self._explained():
            yield from self._store.first_parents(head)

    def merge_base(self, one: Id, other: Id) -> Id | None:
        """Return the latest commit that both come from; each of them may be staged."""
        staged_of_one, landed_of_one = self._ancestry(one)
        staged_of_other, landed_of_other = self._ancestry(other)
        if common := [id for id in self._staged if id in staged_of_one and id in staged_of_other]:
            return common[-1]  # what is staged later is not an ancestor of what was staged before it
        best: Id | None = None
        with self._explained():
            for ours, theirs in product(landed_of_one, landed_of_other):
                found = self._store.merge_base(ours, theirs)
                if found is not None and (best is None or self._store.merge_base(best, found) == best):
                    best = found
        return best

    def _ancestry(self, head: Id) -> tuple[set[Id], list[Id]]:
        """Return the staged commits from which a commit comes, itself among them, and the latest landed ones."""
        staged, landed, waiting = set[Id](), list[Id](), [head]
        while waiting:
            id = waiting.pop()
            if id not in self._staged:
                landed.append(id)
            elif id not in staged:
                staged.add(id)
                waiting += self.commit(id).parents
        return staged, landed

    def value(self, commit: Id, path: str) -> str | None:
        """Return the value at a path, None if there is none."""
        id, is_tree = objects.find(self._directories, self.commit(commit).tree, path)
        return None if id is None or is_tree else self._text(id)

    def touches(self, commit: CommitRecord, path: str) -> bool:
        """Say whether a commit changed anything at or below a path."""
        before = self.commit(commit.parents[0]).tree if commit.parents else None
        return objects.find(self._directories, before, path) != objects.find(self._directories, commit.tree, path)

    def leaves(self, commit: Id | None, prefix: str = "") -> dict[str, str]:
        """Return path -> value of a commit."""
        return {path: value for path, (_, value) in self.differing(None, commit, prefix).items() if value is not None}

    def differing(self, old: Id | None, new: Id | None, prefix: str = "") -> dict[str, tuple[str | None, str | None]]:
        """Return in what two commits differ: path -> (value before, value after)."""
        return at_once(self.differing_steps(old, new, prefix))

    def differing_steps(
        self, old: Id | None, new: Id | None, prefix: str = ""
    ) -> Steps[dict[str, tuple[str | None, str | None]]]:
        """Do what `differing` does, in steps."""
        trees = [None if each is None else self.commit(each).tree for each in (old, new)]
        (before, was_tree), (after, is_tree) = (objects.find(self._directories, tree, prefix) for tree in trees)
        texts: dict[Id, str] = {}
        size = 0

        def text(id: Id | None) -> str | None:
            nonlocal size
            if id is None:
                return None
            if id not in texts:
                texts[id] = self._text(id)
            size += len(texts[id])
            return texts[id]

        found = {}
        pairs = objects.differing(
            self._directories, before if was_tree else None, after if is_tree else None, prefix + "/" if prefix else ""
        )
        try:
            for path, old_blob, new_blob in pairs:
                found[path] = (text(old_blob), text(new_blob))
                if len(found) % PIECE == 0:
                    yield
                if len(found) == MANY_LEAVES:
                    self._measure(before if was_tree else None, after if is_tree else None)
                if size > 2 * MAX_TREE_BYTES:
                    raise TooLargeError(f"more than {MAX_TREE_BYTES} characters")
        except (TooLargeError, ForeignError) as error:
            raise Refused(
                f"what differs between commits of {self.name} is too much to read: {error}",
                hint="`git diff` in the repository shows them",
            ) from None
        own = (None if was_tree else before, None if is_tree else after)
        if prefix and own[0] != own[1]:
            found[prefix] = (text(own[0]), text(own[1]))
        return found

    def _measure(self, *trees: Id | None) -> None:
        """Raise ForeignError for a tree with too many leaves, without reading any part of it twice."""
        measure = Measure(
            lambda id: [(inner, is_tree) for _, inner, is_tree in self._directories.read(id).items()], lambda _: 0
        )
        for tree in trees:
            if tree is not None:
                measure.tree(tree)

    # --- writing ---

    def stage_commit(self, draft: CommitDraft, changes: Mapping[str, str | None]) -> Id:
        """Make a commit on the first parent, in memory, and return its id."""
        return at_once(self.stage_steps(draft, changes))

    def stage_steps(self, draft: CommitDraft, changes: Mapping[str, str | None]) -> Steps[Id]:
        """Do what `stage_commit` does, in steps."""
        before = self.commit(draft.parents[0]).tree if draft.parents else None
        root, made = yield from objects.write_steps(self._directories, self._directories.read(before), changes)
        tree = objects.make(ObjectKind.TREE, root.raw)
        commit = make_commit(tree.id, draft)
        self._staged.update({each.id: each for each in [*made, tree, commit]})
        return commit.id

    def landed(self) -> None:
        """Note that what was staged is on the disk. The next commit is likely to be made on it."""
        latest = list(islice(reversed(self._staged.values()), RECENT_KEPT))
        for each in reversed(latest):  # the commit comes last, and is kept longest
            if len(each.data) < MAX_RECENT_BYTES:
                self._recent[each.id] = each
        while len(self._recent) > RECENT_KEPT:
            self._recent.popitem(last=False)
        self._staged.clear()

    def drop_staged(self) -> None:
        """Forget what is staged: it is not wanted."""
        self._staged.clear()

    def staged(self) -> list[GitObject]:
        """Return what is staged, for `land`."""
        return list(self._staged.values())

    def land(self, staged: Sequence[GitObject], moves: Mapping[str, tuple[Id | None, Id | None]]) -> None:
        """Bring what is staged to the object store, then move branches, as `ObjectStore.land` says.

        Raises Unavailable, or Conflict if a branch is not where it is expected. For another thread, which a stop of the
        store does not interrupt.
        """
        with self._explained():
            self._store.land(staged, moves)

    # --- below ---

    def _load(self, id: Id, kind: ObjectKind) -> bytes:
        held = self._staged.get(id) or self._recent.get(id)
        if held is not None:
            return held.data
        with self._explained():
            return self._store.read(id, kind)

    def _text(self, id: Id) -> str:
        return self._load(id, ObjectKind.BLOB).decode("utf-8", "replace")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what is wrong with the object store into an error that says what to do."""
        try:
            yield
        except RepositoryError as error:
            raise explained(error, self.name) from None


def explained(error: RepositoryError, name: str) -> JitsuError:
    """Return the error that callers and operators get about a repository of this name."""
    match error:
        case CannotOpenError():
            return Unavailable(f"the store {name} cannot be opened now: {error}")
        case NotARepositoryError():
            return DamagedStore(
                f"{name} is not a Git repository that can be opened: {error}",
                hint="name a Git repository, or a new or empty directory; or restore this one from a clone",
            )
        case CannotWriteError():
            return Unavailable(f"cannot write to the store {name}: {error}", hint="is the disk full or read-only?")
        case BranchMovedError(branch=branch):
            return Conflict(
                f"another program has moved the branch {branch} of {name}",
                hint="restart jitsu-store, so that it reads what the other program has written",
            )
        case BranchLockedError(branch=branch, lock=lock):
            return Unavailable(f"another program is moving the branch {branch}", hint=f"if none is, remove {lock}")
    what = f"object {error.id.hex()} of " if isinstance(error, DamagedError) and error.id else ""
    return Unavailable(
        f"{what}the store {name} is missing or damaged: {error}",
        hint="`git fsck` lists what is damaged; restore from a clone, or `git fetch` into it from one",
    )
