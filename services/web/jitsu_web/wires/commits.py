"""Publishes each commit of each branch.

The store's feed `heads` only reports that a branch has moved. What was committed is read then, one branch after the
other, so many commits in a row are read in few requests. Branches that commands make only for themselves come and go
without news of their commits.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.messages import BranchList, ChangesList, ChangesSince, HeadMoved, History, ListBranches, Log
from jitsu_protocol.model.errors import JitsuError
from jitsu_protocol.model.vm import VM_ROOT
from jitsu_protocol.wire.codec import body_as
from jitsu_web.rules.events import CommitEvent
from jitsu_web.wires.past import of_commit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jitsu_protocol.messages import Change, Commit, FeedItem
    from jitsu_runtime.world import Caller, Snapshot, World
    from jitsu_web.wires.hub import Hub

READ_S = 10.0
MAX_COMMITS = 100
"""Of more in a row only the latest are published: whoever reads the stream sees that the branch has moved."""
MAX_VMS = 100

log = structlog.get_logger("web")


class CommitWatch:
    """Where each branch is, and what was committed since."""

    def __init__(self, world: World, store: Caller, hub: Hub) -> None:
        self._world = world
        self._store = store
        self._hub = hub
        self._heads: dict[str, str] = {}
        """The latest commit of each branch that was published."""
        self._moved: dict[str, str] = {}
        """Branches whose commits are to be read, with where they are now."""
        self._wakes = asyncio.Event()
        self._is_begun = False

    def start(self) -> None:
        """Begin to follow."""
        self._world.subscribe("store", "heads", ask=self._ask, reset=self._reset, apply=self._apply)
        self._world.spawn(self._publish_for_ever(), "commits")

    async def _ask(self) -> Snapshot:
        listed = await self._store.call(ListBranches(), BranchList, READ_S)
        return listed.epoch, listed.number, {each.name: each.commit.id for each in listed.branches}

    def _reset(self, heads: dict[str, str]) -> None:
        if not self._is_begun:  # what was committed before this process began is history
            self._is_begun, self._heads = True, dict(heads)
            return
        gone = self._heads.keys() - heads.keys()
        for name, commit in (*heads.items(), *((name, "") for name in gone)):
            if self._heads.get(name) != commit:
                self._note(name, commit)

    def _apply(self, item: FeedItem) -> None:
        moved = body_as(HeadMoved, item.body_kind, item.body or {})
        self._note(moved.branch, moved.commit)

    def _note(self, branch: str, commit: str) -> None:
        self._moved[branch] = commit
        self._wakes.set()

    async def _publish_for_ever(self) -> None:
        while True:
            await self._wakes.wait()
            self._wakes.clear()
            while self._moved:
                branch, commit = next(iter(self._moved.items()))
                del self._moved[branch]
                before = self._heads.pop(branch, "")
                if not commit:
                    self._hub.publish([CommitEvent(branch, "")])
                    continue
                self._heads[branch] = commit
                try:
                    self._hub.publish(await self._read(branch, before))
                except JitsuError as error:  # it was deleted again, or the store is away: the next look finds it
                    log.debug("commits not read", branch=branch, reason=str(error))
                    self._hub.publish([CommitEvent(branch, commit)])

    async def _read(self, branch: str, before: str) -> list[CommitEvent]:
        """Return the commits of a branch since one; only the latest if it is new, or its history is another one."""
        if before:
            try:
                request = ChangesSince(since=before, branch=branch, prefix=VM_ROOT, limit=MAX_COMMITS)
                found = await self._store.call(request, ChangesList, READ_S)
                return [_event_of(branch, each.commit, each.changes) for each in found.commits]
            except JitsuError as error:
                log.debug("history was written again", branch=branch, reason=str(error))
        latest = (await self._store.call(Log(branch=branch, limit=1), History, READ_S)).commits
        return [_event_of(branch, each) for each in latest]


def _event_of(branch: str, commit: Commit, changes: Iterable[Change] = ()) -> CommitEvent:
    uuids = {each.path.removeprefix(VM_ROOT + "/").partition("/")[0] for each in changes}
    shown = of_commit(commit)
    return CommitEvent(branch, commit.id, commit.author, shown["message"], commit.ts, sorted(uuids)[:MAX_VMS])
