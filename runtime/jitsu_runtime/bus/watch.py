"""Follow what is committed below a path of a branch: each commit once, in order, from any commit on.

The feed `heads` only says that something has moved; what, is asked for from the commit that was seen last. So nothing
is missed however long the watcher, or the store, was away.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from jitsu_protocol.messages import BranchList, ChangesList, ChangesSince, ListBranches
from jitsu_protocol.model.errors import NotFound, TimedOut
from jitsu_protocol.model.vm import nearest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from jitsu_protocol.messages import CommitChanges, FeedItem
    from jitsu_runtime.world import Caller, Snapshot

CALL_TIMEOUT_S = 60.0
"""The store may have to read through a long history."""


class Watch:
    """One watcher. `ask`, `reset` and `apply` are for a Followed on the store's feed `heads`."""

    def __init__(self, store: Caller, branch: str, prefix: str, since: str = "") -> None:
        """Watch from `since` on, a commit; from now on, if it is empty."""
        self._store = store
        self._branch, self._prefix, self._seen = branch, prefix, since
        self._moved = asyncio.Event()

    async def ask(self) -> Snapshot:
        """Return where the branches stand."""
        listed = await self._store.call(ListBranches(), BranchList, CALL_TIMEOUT_S)
        return listed.epoch, listed.number, {each.name: each.commit.id for each in listed.branches}

    def reset(self, _: dict[str, str]) -> None:
        """Note that any branch may have moved."""
        self._moved.set()

    def apply(self, _: FeedItem) -> None:
        """Note that a branch has moved."""
        self._moved.set()

    async def commits(self) -> AsyncIterator[CommitChanges]:
        """Yield the commits that change something; raises NotFound without the branch, Conflict if it lost `since`."""
        if not self._seen:
            heads: dict[str, str] = (await self.ask())[2]
            if self._branch not in heads:
                raise NotFound(f"there is no branch {self._branch!r}{nearest(self._branch, heads)}")
            self._seen = heads[self._branch]
        while True:
            self._moved.clear()
            asked = ChangesSince(since=self._seen, branch=self._branch, prefix=self._prefix)
            try:
                page = await self._store.call(asked, ChangesList, CALL_TIMEOUT_S)
            except TimedOut:
                await self._moved.wait()  # the store is away; its return makes the feed begin anew
                continue
            for each in page.commits:
                yield each
            self._seen = page.upto
            if not page.more:
                await self._moved.wait()
