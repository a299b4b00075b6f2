"""One handle on a bare Git repository: objects and branches, read through libgit2 and written as packfiles.

A handle is for one thread. It keeps nothing of what is asked for; libgit2 keeps open packfiles and what it has read of
them. Nothing here knows what the objects mean.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import pygit2
from pygit2.enums import ObjectType, SortMode

from jitsu_store.git.branches import BRANCHES, is_branch_name
from jitsu_store.git.errors import (
    BranchMovedError,
    CannotOpenError,
    CannotWriteError,
    DamagedError,
    NotARepositoryError,
)
from jitsu_store.git.files import Landing, branch_lock, pack_directory, pack_name, temporary_pack
from jitsu_store.git.packfile import Ids, PackfileWriter
from jitsu_store.git.references import branch_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from jitsu_store.git.objects import GitObject, Id, ObjectKind


class DiskObjectStore:
    """A repository in a directory. All methods block, and raise RepositoryError."""

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        """Open a repository that is there. `durable`: wait for the disk."""
        self._path = path
        self._durable = durable
        self._repository = self._open()

    def reopen(self) -> None:
        """Look at the directory again: libgit2 keeps packfiles open that have been combined with others."""
        self._repository.free()  # what is open stays usable: libgit2 opens again what it needs
        self._repository = self._open()

    def _open(self) -> pygit2.Repository:
        try:
            return pygit2.Repository(str(self._path))
        except OSError as error:
            raise CannotOpenError(str(error)) from None
        except pygit2.GitError as error:
            raise NotARepositoryError(str(error)) from None

    def heads(self) -> dict[str, Id]:
        """Return all branches: name -> latest commit."""
        with _damage():
            return {name: head for name in branch_names(self._path) if (head := self.head(name)) is not None}

    def head(self, branch: str) -> Id | None:
        """Return the latest commit of a branch, None if there is no such branch."""
        if not is_branch_name(branch):
            return None
        with _damage():
            reference = self._repository.references.get(BRANCHES + branch)
            return None if reference is None else _target(reference)

    def find_commit(self, prefix: str) -> Id | None:
        """Return the only commit whose id begins with these hexadecimal digits, None if there is none, or another."""
        with suppress(KeyError, ValueError):
            found = self._repository.revparse_single(prefix)
            if found.type == ObjectType.COMMIT:
                return bytes(found.id.raw)
        return None

    def read(self, id: Id, kind: ObjectKind) -> bytes:
        """Return the content of an object of this kind."""
        with _damage(id):
            found, data = self._repository.read(pygit2.Oid(raw=id))
            if ObjectType(found).name.lower() != kind.value:
                raise ValueError(f"it is not a {kind.value}")
            return bytes(data)

    def ancestors(self, head: Id) -> Iterator[Id]:
        """Yield a commit and its ancestors, newest first."""
        with _damage():
            for commit in self._repository.walk(pygit2.Oid(raw=head), SortMode.NONE):
                yield commit.id.raw

    def first_parents(self, head: Id) -> Iterator[Id]:
        """Yield a commit, the one that it was made on, and so on."""
        with _damage():
            walker = self._repository.walk(pygit2.Oid(raw=head), SortMode.NONE)
            walker.simplify_first_parent()
            for commit in walker:
                yield commit.id.raw

    def merge_base(self, one: Id, other: Id) -> Id | None:
        """Return the latest commit that both come from."""
        with _damage():
            found = self._repository.merge_base(pygit2.Oid(raw=one), pygit2.Oid(raw=other))
        return None if found is None else found.raw

    def land(self, objects: Sequence[GitObject], moves: Mapping[str, tuple[Id | None, Id | None]]) -> None:
        """Bring objects to the disk, then move branches: name -> (from, to), None for a branch that does not exist.

        Raises CannotWriteError, BranchLockedError, or BranchMovedError if a branch is not where it is expected. Then
        nothing has happened, unless the disk failed between two branches: `head` says where each of them is.
        """
        try:
            with ExitStack() as open_files:
                landing = Landing(self._durable)
                for branch, (old, new) in moves.items():
                    if new is None:  # first, because it can be done again: a failure leaves nothing half done
                        self._delete(branch, old)
                if objects:
                    self._write_packfile(objects, landing, open_files)
                for branch, (old, new) in moves.items():
                    if new is not None:
                        path = self._path / BRANCHES / branch
                        file, lock = open_files.enter_context(branch_lock(path))
                        file.write(new.hex().encode() + b"\n")
                        landing.add((file, lock, path))
                        self._check_head(branch, old)
                landing.land()
        except (pygit2.GitError, OSError) as error:
            raise CannotWriteError(str(error)) from None

    def _write_packfile(self, objects: Sequence[GitObject], landing: Landing, open_files: ExitStack) -> None:
        directory = pack_directory(self._path)
        file, path = open_files.enter_context(temporary_pack(directory))
        ids = sorted(each.id for each in objects)
        places = {id: place for place, id in enumerate(ids)}
        writer = PackfileWriter(file.write, Ids(ids), places.__getitem__)
        for each in objects:
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
            raise BranchMovedError(branch)


def _target(reference: pygit2.Reference) -> Id:
    target = reference.resolve().target
    assert isinstance(target, pygit2.Oid)  # it is resolved
    return bytes(target.raw)


@contextmanager
def _damage(id: Id = b"") -> Iterator[None]:
    """Turn everything that libgit2 says about a damaged repository into one error."""
    try:
        yield
    except (KeyError, ValueError, OSError, pygit2.GitError) as error:
        raise DamagedError(str(error), id) from None
