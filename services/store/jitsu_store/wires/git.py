"""The bare Git repository: commits and branches, read through libgit2, written as packs."""

from __future__ import annotations

import errno
import fcntl
import os
from collections import OrderedDict
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING

import pygit2
from pygit2.enums import ObjectType, SortMode

from jitsu_protocol.model.errors import (
    Conflict,
    DamagedStore,
    NotFound,
    Refused,
    SetupFault,
    Unavailable,
    UnwritableStore,
)
from jitsu_store.rules import objects
from jitsu_store.rules.foreign import ForeignError, Measure
from jitsu_store.rules.objects import CommitRecord, Directories, GitObject, Id, Kind, TooLargeError
from jitsu_store.rules.pack import Ids, PackWriter
from jitsu_store.rules.steps import PIECE, at_once
from jitsu_store.rules.tree import MAX_TREE_BYTES
from jitsu_store.wires.branches import BRANCHES, branch_names, is_branch_name
from jitsu_store.wires.files import Landing, branch_lock, clear_leftovers, pack_directory, pack_name, temporary_pack

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from jitsu_store.rules.steps import Steps

LOCK = "jitsu-store.lock"
MIN_REVISION_CHARACTERS = 4
MAX_OPEN_PACKS = 128
MANY_LEAVES = 150_000
"""From then on it is worth counting how many there are in all: another program may have made any tree."""
RECENT_KEPT = 1000
MAX_RECENT_BYTES = 4096
"""Small objects just written: libgit2 would have to look for their packs first."""
_UNWRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT}


class GitRepository:
    """One handle on a repository, for one thread. What is staged is in memory until it has landed."""

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        """Open a repository that is there; raises DamagedStore. `durable`: wait for the disk."""
        self.path = path
        self.durable = durable
        self._repository = self._open()
        self._staged: dict[Id, GitObject] = {}
        self._recent: OrderedDict[Id, GitObject] = OrderedDict()
        self._directories = Directories(lambda id: self._load(id, ObjectType.TREE))

    def reopen(self) -> None:
        """Look anew: libgit2 keeps packs open that have been brought together with others."""
        self._repository.free()  # what is open stays usable: libgit2 opens again what it needs
        self._repository = self._open()

    def _open(self) -> pygit2.Repository:
        try:
            return pygit2.Repository(str(self.path))
        except OSError as error:  # no descriptors, or no memory: that passes
            raise Unavailable(f"the store {self.path} cannot be opened now: {error}") from None
        except pygit2.GitError as error:
            raise DamagedStore(
                f"{self.path} is not a Git repository that can be opened: {error}",
                hint="name a Git repository, or a new or empty directory; or restore this one from a clone",
            ) from None

    # --- reading ---

    def branches(self) -> dict[str, Id]:
        """Return all branches: name -> latest commit."""
        with self._complaints():
            return {name: head for name in branch_names(self.path) if (head := self.head(name)) is not None}

    def head(self, branch: str) -> Id | None:
        """Return the latest commit of a branch, None if it has none."""
        if not is_branch_name(branch):
            return None
        with self._complaints():
            reference = self._repository.references.get(BRANCHES + branch)
            return None if reference is None else _target(reference)

    def resolve(self, revision: str) -> Id:
        """Return the commit that a branch or the beginning of an id means; raises NotFound."""
        head = self.head(revision)
        if head is not None:
            return head
        if len(revision) >= MIN_REVISION_CHARACTERS and all(c in "0123456789abcdef" for c in revision):
            with suppress(KeyError, ValueError):  # there is none, or more than one
                found = self._repository.revparse_single(revision)
                if found.type == ObjectType.COMMIT:
                    return bytes(found.id.raw)
        raise NotFound(f"{revision[:100]!r} is neither a branch nor a commit", hint="`jitsu branch` lists the branches")

    def commit(self, id: Id) -> CommitRecord:
        """Return a commit."""
        return objects.parse_commit(id, self._load(id, ObjectType.COMMIT))

    def log(self, head: Id) -> Iterator[CommitRecord]:
        """Yield a commit and its ancestors, newest first."""
        with self._complaints():
            for commit in self._repository.walk(pygit2.Oid(raw=head), SortMode.NONE):
                yield self.commit(commit.id.raw)

    def first_parents(self, head: Id) -> Iterator[Id]:
        """Yield a commit, the one that it was made on, and so on."""
        with self._complaints():
            walker = self._repository.walk(pygit2.Oid(raw=head), SortMode.NONE)
            walker.simplify_first_parent()
            for commit in walker:
                yield commit.id.raw

    def merge_base(self, one: Id, other: Id) -> Id | None:
        """Return the latest commit that both come from."""
        with self._complaints():
            found = self._repository.merge_base(pygit2.Oid(raw=one), pygit2.Oid(raw=other))
        return None if found is None else found.raw

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
        """As `differing`, in pieces."""
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
                f"what differs between commits of {self.path} is too much to read: {error}",
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

    def stage_commit(
        self,
        parents: tuple[Id, ...],
        changes: Mapping[str, str | None],
        *,
        author: str,
        message: str,
        request: str,
        ts: float,
        serial: int = 0,
        is_on_foreign: bool = False,
    ) -> Id:
        """Make a commit on the first parent, in memory, and return its id."""
        return at_once(
            self.stage_steps(
                parents,
                changes,
                author=author,
                message=message,
                request=request,
                ts=ts,
                serial=serial,
                is_on_foreign=is_on_foreign,
            )
        )

    def stage_steps(
        self,
        parents: tuple[Id, ...],
        changes: Mapping[str, str | None],
        *,
        author: str,
        message: str,
        request: str,
        ts: float,
        serial: int = 0,
        is_on_foreign: bool = False,
    ) -> Steps[Id]:
        """As `stage_commit`, in pieces."""
        tree = self.commit(parents[0]).tree if parents else None
        root, made = yield from objects.write_steps(self._directories, self._directories.read(tree), changes)
        made.append(objects.make(Kind.TREE, root.raw))
        commit = objects.commit(
            made[-1].id, parents, author, message, request, int(ts), serial, is_on_foreign=is_on_foreign
        )
        self._staged.update({each.id: each for each in [*made, commit]})
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
        """Bring what is staged to the disk, then move branches: name -> (from, to), None for a branch that is not.

        Raises Unavailable, or Conflict if a branch does not stand where expected. Then nothing has happened, unless the
        disk failed between two branches: `head` says where each of them stands. For another thread, which a stop of
        the store does not interrupt.
        """
        try:
            with ExitStack() as open_files:
                landing = Landing(self.durable)
                for branch, (old, new) in moves.items():
                    if new is None:  # first, because it can be done again: a failure leaves nothing half done
                        self._delete(branch, old)
                if staged:
                    self._write_pack(staged, landing, open_files)
                for branch, (old, new) in moves.items():
                    if new is not None:
                        path = self.path / BRANCHES / branch
                        file, lock = open_files.enter_context(branch_lock(path))
                        file.write(new.hex().encode() + b"\n")
                        landing.add((file, lock, path))
                        self._check_head(branch, old)
                landing.land()
        except (pygit2.GitError, OSError) as error:
            raise Unavailable(
                f"cannot write to the store {self.path}: {error}", hint="is the disk full or read-only?"
            ) from None

    def _write_pack(self, staged: Sequence[GitObject], landing: Landing, open_files: ExitStack) -> None:
        directory = pack_directory(self.path)
        file, path = open_files.enter_context(temporary_pack(directory))
        ids = sorted(each.id for each in staged)
        places = {id: place for place, id in enumerate(ids)}
        writer = PackWriter(file.write, Ids(ids), places.__getitem__)
        for each in staged:
            writer.add(each)
        index = writer.finish()
        index_file, index_path = open_files.enter_context(temporary_pack(directory))
        index_file.write(index)
        landing.add_pack(directory, file, path, (index_file, index_path), pack_name(index))

    def _delete(self, branch: str, expected: Id | None) -> None:
        if self.head(branch) is not None:
            self._check_head(branch, expected)
            self._repository.references.delete(BRANCHES + branch)

    def _check_head(self, branch: str, expected: Id | None) -> None:
        if self.head(branch) != expected:
            raise Conflict(
                f"another program has moved the branch {branch} of {self.path}",
                hint="restart jitsu-store, so that it reads what the other program has written",
            )

    # --- below ---

    def _load(self, id: Id, kind: ObjectType) -> bytes:
        held = self._staged.get(id) or self._recent.get(id)
        if held is not None:
            return held.data
        with self._complaints(id):
            found, data = self._repository.read(pygit2.Oid(raw=id))
            if found != kind:
                raise ValueError(f"it is not a {kind.name.lower()}")
        return bytes(data)

    def _text(self, id: Id) -> str:
        return self._load(id, ObjectType.BLOB).decode("utf-8", "replace")

    @contextmanager
    def _complaints(self, id: Id = b"") -> Iterator[None]:
        """Turn what libgit2 says of a damaged repository into one error that says what to do."""
        try:
            yield
        except (KeyError, ValueError, OSError, pygit2.GitError) as error:
            what = f"object {id.hex()} of " if id else ""
            raise Unavailable(
                f"{what}the store {self.path} is missing or damaged: {error}",
                hint="`git fsck` lists what is damaged; restore from a clone, or `git fetch` into it from one",
            ) from None


def _target(reference: pygit2.Reference) -> Id:
    target = reference.resolve().target
    assert isinstance(target, pygit2.Oid)  # it is resolved
    return bytes(target.raw)


def prepare(path: Path, *, durable: bool = True) -> int:
    """Make a repository of a new or empty directory, see that it can be written to, and lock it for this process.

    Returns the lock's descriptor. Raises SetupFault, DamagedStore or UnwritableStore; what is there stays as it is.
    """
    os.umask(os.umask(0o077) | 0o022)  # nobody else writes to a repository, whatever this process was given
    pygit2.settings.enable_fsync_gitdir(durable)
    pygit2.settings.mwindow_file_limit = MAX_OPEN_PACKS
    try:
        if not path.exists() or not any(path.iterdir()):
            pygit2.init_repository(str(path), bare=True, initial_head="master")
        elif not (path / "objects").is_dir():
            raise DamagedStore(
                f"{path} is not a bare Git repository",
                hint="name one, or a new or empty directory; `git clone --bare` makes one of another repository",
            )
        pack_directory(path).mkdir(parents=True, exist_ok=True)
        lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _lock(lock, path)
        clear_leftovers(path)
        with temporary_pack(pack_directory(path)) as (file, _):
            file.write(bytes(64 * 1024))  # enough for a commit
            file.flush()
    except (OSError, pygit2.GitError) as error:
        number = getattr(error, "errno", None)
        if number in _UNWRITABLE or isinstance(error, pygit2.GitError):
            raise UnwritableStore(
                f"cannot write to the store {path}: {getattr(error, 'strerror', None) or error}",
                hint="make room on its disk, mount it writable, or give it to this process's user",
            ) from None
        raise SetupFault(f"cannot open the store {path}: {error}") from None
    return lock


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SetupFault(f"another jitsu-store has {path} open", hint="stop that one first") from None
