"""The history of a path, and the way back."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from jitsu_protocol.messages import MASTER, Change, Commit, Diff, Difference, History, Log
from jitsu_protocol.model.errors import Conflict
from jitsu_web.wires.asking import conflict_is_a_precondition
from jitsu_web.wires.shapes import AppliedShape, ChangeShape, CommitChangesShape, HistoryShape

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jitsu_web.rules.callers import ApiCaller
    from jitsu_web.wires.api import Api
    from jitsu_web.wires.shapes import AskedRevert


def change_shapes(changes: Iterable[Change]) -> list[ChangeShape]:
    """Return changes as the API shows them."""
    return [ChangeShape(path=each.path, old=each.old, value=each.value) for each in changes]


async def history_of(api: Api, path: str, limit: int, branch: str = MASTER) -> HistoryShape:
    """Return the latest commits that changed something at or below a path, with what each of them changed there.

    What a commit changed is the difference to the one before it in this list, because those between did not touch the
    path. The first commit of a path has made all that was there then.
    """
    async with api.asker.searches:
        return await _history_of(api, path, limit, branch)


async def _history_of(api: Api, path: str, limit: int, branch: str) -> HistoryShape:
    commits = (await api.asker.store(Log(path=path, limit=limit + 1, branch=branch), History)).commits
    leaves = dict((await api.asker.leaves(path, branch)).leaves) if len(commits) <= limit else {}
    items: list[CommitChangesShape] = []
    for commit, before in pairwise([*commits[: limit + 1], *([] if len(commits) > limit else [None])]):
        assert commit is not None
        if before is None:
            changes = [Change(path=each, value=value) for each, value in leaves.items()]
        else:
            changes = (await api.asker.store(Diff(old=before.id, new=commit.id, prefix=path), Difference)).changes
            undo(leaves, changes)
        items.append(CommitChangesShape(**of_commit(commit), changes=change_shapes(changes)))
    return HistoryShape(items=items)


def undo(leaves: dict[str, str], changes: Iterable[Change]) -> None:
    """Make leaves what they were before changes."""
    for change in changes:
        if change.old is None:
            leaves.pop(change.path, None)
        else:
            leaves[change.path] = change.old


def of_commit(commit: Commit) -> dict[str, Any]:
    """Return a commit as people see it: without the id of the request that led to it."""
    return {**commit.model_dump(), "message": commit.message.partition("\n\nRequest-Id:")[0].strip()}


async def reverted(api: Api, caller: ApiCaller, path: str, asked: AskedRevert, branch: str = MASTER) -> AppliedShape:
    """Make all that is at or below a path what it was at a commit, in a new commit."""
    changes = (await api.asker.store(Diff(old=branch, new=asked.to, prefix=path), Difference)).changes
    if not changes:
        return AppliedShape(commit=api.live.board.commit if branch == MASTER else "", changed=0)
    expect = {each.path: each.old for each in changes}
    message = asked.message or f"Go back to {asked.to[:10]}"
    try:
        applied = await api.asker.apply(caller, changes, message, branch, expect)
    except Conflict as error:
        raise conflict_is_a_precondition(error) from None
    return AppliedShape(commit=applied.commit, changed=applied.changed)
