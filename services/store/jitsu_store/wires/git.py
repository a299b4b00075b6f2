"""The bare Git repository: one blob per leaf, one commit per change, branch `master` (pygit2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pygit2
from pygit2.enums import FileMode, SortMode

from jitsu_protocol.errors import SetupFault, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

BRANCH = "refs/heads/master"
TRAILER = "Request-Id: "


@dataclass(frozen=True)
class CommitRecord:
    """One commit."""

    id: str
    ts: float
    author: str
    message: str

    @property
    def request(self) -> str:
        """The id of the request that made it, or nothing."""
        lines = self.message.splitlines()
        return lines[-1].removeprefix(TRAILER) if lines and lines[-1].startswith(TRAILER) else ""


class GitRepository:
    """The repository behind a store; all calls block for some milliseconds."""

    def __init__(self, path: Path) -> None:
        """Open the repository, or make it; raises SetupFault."""
        self.path = path
        try:
            if path.exists() and any(path.iterdir()):
                self._repository = pygit2.Repository(str(path))
            else:
                self._repository = pygit2.init_repository(str(path), bare=True, initial_head="master")
        except (pygit2.GitError, OSError) as error:
            raise SetupFault(
                f"cannot open the store {path}: {error}",
                hint="it must be a Git repository, or a new or empty directory that can be written to",
            ) from None

    def head(self) -> str:
        """Return the id of the latest commit, "" if there is none."""
        commit = self._commit()
        return "" if commit is None else str(commit.id)

    def leaves(self) -> dict[str, str]:
        """Return path -> value of the latest commit."""
        commit = self._commit()
        return {} if commit is None else dict(self._walk(commit.tree, ""))

    def commit(self, changes: Mapping[str, str | None], author: str, message: str, request: str, ts: float) -> str:
        """Write one commit and return its id; raises Unavailable if the disk does not take it."""
        parent = self._commit()
        text = f"{message}\n\n{TRAILER}{request}\n" if request else f"{message}\n"
        try:
            tree = self._write(None if parent is None else parent.tree, changes)
            signature = pygit2.Signature(_plain(author), f"{_plain(author)}@jitsu", int(ts), 0)
            parents = [] if parent is None else [parent.id]
            id = self._repository.create_commit(
                BRANCH, signature, signature, text, tree or self._repository.TreeBuilder().write(), parents
            )
        except (pygit2.GitError, OSError) as error:
            raise Unavailable(
                f"cannot write to the store {self.path}: {error}", hint="is the disk full or read-only?"
            ) from None
        return str(id)

    def log(self) -> Iterator[tuple[CommitRecord, pygit2.Commit]]:
        """Yield the commits, newest first."""
        head = self._commit()
        if head is None:
            return
        for commit in self._repository.walk(head.id, SortMode.TOPOLOGICAL):
            yield _record(commit), commit

    def touches(self, commit: pygit2.Commit, path: str) -> bool:
        """Say whether a commit changed anything at or below a path."""
        parent = commit.parents[0].tree if commit.parents else None
        return _entry(commit.tree, path) != (None if parent is None else _entry(parent, path))

    def _commit(self) -> pygit2.Commit | None:
        reference = self._repository.references.get(BRANCH)
        return None if reference is None else reference.peel(pygit2.Commit)

    def _walk(self, tree: pygit2.Tree, prefix: str) -> Iterator[tuple[str, str]]:
        for entry in tree:
            path = f"{prefix}{entry.name}"
            if isinstance(entry, pygit2.Tree):
                yield from self._walk(entry, path + "/")
            elif isinstance(entry, pygit2.Blob):
                yield path, entry.data.decode("utf-8", "replace")

    def _write(self, tree: pygit2.Tree | None, changes: Mapping[str, str | None]) -> pygit2.Oid | None:
        """Return the id of the tree with the changes made, None if nothing is left in it."""
        builder = self._repository.TreeBuilder() if tree is None else self._repository.TreeBuilder(tree)
        deeper: dict[str, dict[str, str | None]] = {}
        for path, value in changes.items():
            name, slash, rest = path.partition("/")
            if slash:
                deeper.setdefault(name, {})[rest] = value
            elif value is not None:
                builder.insert(name, self._repository.create_blob(value.encode()), FileMode.BLOB)
            elif builder.get(name) is not None:
                builder.remove(name)
        for name, inner in deeper.items():
            old = tree[name] if tree is not None and name in tree else None
            written = self._write(old if isinstance(old, pygit2.Tree) else None, inner)
            if written is not None:
                builder.insert(name, written, FileMode.TREE)
            elif builder.get(name) is not None:
                builder.remove(name)
        return builder.write() if len(builder) else None


def _entry(tree: pygit2.Tree, path: str) -> str | None:
    try:
        return str(tree[path].id) if path else str(tree.id)
    except KeyError:
        return None


def _record(commit: pygit2.Commit) -> CommitRecord:
    return CommitRecord(str(commit.id), float(commit.commit_time), commit.author.name, commit.message)


def _plain(author: str) -> str:
    return "".join(c for c in author if c.isprintable() and c not in "<>").strip() or "unknown"
