"""Follows what is committed below a path of a branch: each commit once, in order, from any commit on.

The store's feed `heads` only reports that a branch has moved. What has changed is then read from the commit that was
seen last (wire/pages.py), so no commit is missed however long this process or the store was away.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from jitsu_protocol.messages import BranchList, ChangesList, ListBranches
from jitsu_protocol.model.errors import NotFound, TimedOut
from jitsu_protocol.model.vm import nearest
from jitsu_protocol.wire.pages import CommitPages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from jitsu_protocol.messages import CommitChanges, FeedItem
    from jitsu_runtime.world import Caller, Snapshot

CALL_TIMEOUT_S = 60.0
"""The store may have to read through a long history."""


class Watch:
    """Follows one path. Its `ask`, `reset` and `apply` belong to a Followed on the store's feed `heads`."""

    def __init__(self, store: Caller, branch: str, prefix: str, since: str = "") -> None:
        """Begin after the commit `since`; if it is empty, after the latest commit of the branch."""
        self._store = store
        self._branch, self._prefix, self._since = branch, prefix, since
        self._moved = asyncio.Event()

    async def ask(self) -> Snapshot:
        """Return the latest commit of each branch; raises JitsuError."""
        listed = await self._store.call(ListBranches(), BranchList, CALL_TIMEOUT_S)
        return listed.epoch, listed.number, {each.name: each.commit.id for each in listed.branches}

    def reset(self, _: dict[str, str]) -> None:
        """Note that any branch may have moved."""
        self._moved.set()

    def apply(self, _: FeedItem) -> None:
        """Note that a branch has moved."""
        self._moved.set()

    async def commits(self) -> AsyncIterator[CommitChanges]:
        """Yield the commits that change something below the path, for ever.

        Raises NotFound if there is no such branch, and Conflict if the branch's history does not contain `since`.
        """
        pages = CommitPages(self._branch, self._prefix, self._since or await self._latest())
        while True:
            self._moved.clear()
            try:
                page = await self._store.call(pages.request(), ChangesList, CALL_TIMEOUT_S)
            except TimedOut:
                await self._moved.wait()  # the store is away; when it returns, the feed begins with a snapshot
                continue
            for each in page.commits:
                yield each
            if not pages.received(page):
                await self._moved.wait()

    async def _latest(self) -> str:
        heads: dict[str, str] = (await self.ask())[2]
        if self._branch not in heads:
            raise NotFound(f"there is no branch {self._branch!r}{nearest(self._branch, heads)}")
        return heads[self._branch]
