"""Answers about the history: from the repository, by a worker of its own, so that reading never blocks writing."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from jitsu_protocol.messages import Branch, Change, ChangesList, Commit, CommitChanges, Difference, History
from jitsu_protocol.model.errors import Conflict, Refused
from jitsu_store.rules import tree
from jitsu_store.rules.view import PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jitsu_protocol.messages import ChangesSince, Diff, Log
    from jitsu_store.git.commits import CommitRecord
    from jitsu_store.git.objects import Id
    from jitsu_store.wires.repository import Repository
    from jitsu_store.wires.storage import Worker

MAX_ANSWER_BYTES = 32 * 1024 * 1024
MAX_LOG_SCAN = 100_000

T = TypeVar("T")


class Past:
    """What was, and what other branches have."""

    def __init__(self, repository: Repository, worker: Worker) -> None:
        """`repository` is for this worker alone."""
        self._repository = repository
        self._worker = worker

    def close(self) -> None:
        """Begin nothing more."""
        self._worker.close()

    async def value(self, head: Id | None, path: str) -> str | None:
        """Return the value at a path of a commit."""
        return await self._ask(lambda past: None if head is None else past.value(head, path))

    async def leaves(self, head: Id | None, prefix: str) -> dict[str, str]:
        """Return the leaves of a commit at or below a path."""
        return await self._ask(lambda past: past.leaves(head, prefix))

    async def branches(self, heads: Mapping[str, Id]) -> list[Branch]:
        """Return these branches with their latest commits, sorted."""
        return await self._ask(
            lambda past: [Branch(name=name, commit=_commit(past.commit(id))) for name, id in sorted(heads.items())]
        )

    async def log(self, request: Log, head: Id | None) -> History:
        """Answer Log; `head` is the branch's latest commit."""
        path = tree.clean(request.path)

        def scan(past: Repository) -> History:
            commits: list[Commit] = []
            for scanned, record in enumerate(past.log(head) if head is not None else ()):
                if len(commits) >= request.limit or scanned >= MAX_LOG_SCAN:
                    break
                if not path or past.touches(record, path):
                    commits.append(_commit(record))
            return History(commits=commits)

        return await self._ask(scan)

    async def diff(self, request: Diff) -> Difference:
        """Answer Diff."""

        def compare(past: Repository) -> Difference:
            old, new = past.resolve(request.old), past.resolve(request.new)
            changes = changes_of(past.differing(old, new, tree.clean(request.prefix)))
            if (size := _size(changes)) > MAX_ANSWER_BYTES:
                raise Refused(f"the difference has {size} bytes", hint="ask for that below a path")
            return Difference(changes=changes)

        return await self._ask(compare)

    async def changes_since(self, request: ChangesSince, head: Id | None) -> ChangesList:
        """Answer ChangesSince; `head` is the branch's latest commit."""

        def collect(past: Repository) -> ChangesList:
            since = past.resolve(request.since) if request.since else None
            newer = _newer(past, request, since, head)
            page = newer[::-1][: request.limit]
            commits: list[CommitChanges] = []
            upto, size = since, 0
            for id in page:
                record = past.commit(id)
                parent = record.parents[0] if record.parents else None
                changes = changes_of(past.differing(parent, id, tree.clean(request.prefix)))
                size += _size(changes)
                if commits and size > PAGE_BYTES:
                    break
                if changes:
                    commits.append(CommitChanges(commit=_commit(record), changes=changes))
                upto = id
            more = bool(newer) and upto != newer[0]
            return ChangesList(commits=commits, upto="" if upto is None else upto.hex(), more=more)

        return await self._ask(collect)

    async def _ask(self, work: Callable[[Repository], T]) -> T:
        def run() -> T:
            self._repository.reopen()
            return work(self._repository)

        return await self._worker.run(run)


def _newer(past: Repository, request: ChangesSince, since: Id | None, head: Id | None) -> list[Id]:
    """Return the commits of a branch after one, newest first; raises Conflict if that is not in its history."""
    newer: list[Id] = []
    for id in past.first_parents(head) if head is not None else ():
        if id == since:
            return newer
        newer.append(id)
    if since is None:
        return newer
    raise Conflict(
        f"the commit {request.since} is not in the history of {request.branch}",
        hint="begin again from what there is now",
    )


def changes_of(differing: Mapping[str, tuple[str | None, str | None]]) -> list[Change]:
    """Return changes as messages have them: path -> (value before, value after)."""
    return [Change(path=path, value=new, old=old) for path, (old, new) in differing.items()]


def _commit(record: CommitRecord) -> Commit:
    return Commit(id=record.id.hex(), ts=record.ts, author=record.author, message=record.message)


def _size(changes: list[Change]) -> int:
    return sum(len(each.path) + len(each.value or "") + len(each.old or "") for each in changes)
