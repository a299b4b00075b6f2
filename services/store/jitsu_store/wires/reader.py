"""Answers to questions: about master at once, from memory; about everything else from the repository (past.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.messages import MASTER, BranchList, Leaves, Value
from jitsu_protocol.model.errors import NotFound, Refused
from jitsu_store.rules import tree
from jitsu_store.wires.feeds import HEADS
from jitsu_store.wires.past import MAX_ANSWER_BYTES

if TYPE_CHECKING:
    from jitsu_protocol.messages import (
        ChangesList,
        ChangesSince,
        Diff,
        Difference,
        History,
        List,
        ListBranches,
        Log,
        Read,
    )
    from jitsu_runtime.world import Feed
    from jitsu_store.git.objects import Id
    from jitsu_store.rules.batch import Standing
    from jitsu_store.rules.view import View
    from jitsu_store.wires.past import Past

log = structlog.get_logger("store")


class TreeReader:
    """Answers each request that changes nothing."""

    def __init__(self, standing: Standing, view: View, past: Past, feed: Feed) -> None:
        self._standing = standing
        self._view = view
        self._past = past
        self._feed = feed

    def close(self) -> None:
        """Let the worker end."""
        self._past.close()

    async def read(self, request: Read) -> Value:
        """Answer Read."""
        path = tree.clean(request.path)
        head = self.head(request.branch)
        is_master = request.branch == MASTER
        value = self._view.value(path) if is_master else await self._past.value(head, path)
        if value is not None:
            return Value(value=value, commit=_hex(head))
        below = self._view.below(path) if is_master else await self._past.leaves(head, path)
        if below:
            raise NotFound(f"{path} is not a value: it has {len(below)} below it", hint="jitsu tree shows them")
        raise NotFound(f"{path} does not exist", hint=self._standing.state.tree.nearest(path))

    async def list(self, request: List) -> Leaves:
        """Answer List; about master without waiting, so that the answer fits the numbers of the feeds."""
        feed = self._feed.feeds.get(request.topic)
        if feed is None:
            raise NotFound(f"there is no feed {request.topic!r}")
        head = self.head(request.branch)
        upto, prefix, is_master = "", tree.clean(request.prefix), request.branch == MASTER
        if request.limit and is_master:
            page = self._view.page(prefix, request.after, request.limit)
            leaves, upto = page.leaves, page.upto
            for uuid, size in page.left_out.items():
                log.warning("VM left out of the feed, because it is too large", uuid=uuid, bytes=size)
        else:
            leaves = self._view.below(prefix) if is_master else await self._past.leaves(head, prefix)
            if (size := tree.size_of(leaves)) > MAX_ANSWER_BYTES:
                raise Refused(f"there are {size} bytes below {prefix or 'the root'}", hint="ask for a part of them")
        return Leaves(
            leaves=leaves,
            commit=_hex(head),
            epoch=feed.epoch,
            number=feed.number,
            serial=self._standing.serial,
            upto=upto,
        )

    async def log(self, request: Log) -> History:
        """Answer Log."""
        return await self._past.log(request, self.head(request.branch))

    async def diff(self, request: Diff) -> Difference:
        """Answer Diff."""
        return await self._past.diff(request)

    async def changes_since(self, request: ChangesSince) -> ChangesList:
        """Answer ChangesSince."""
        return await self._past.changes_since(request, self.head(request.branch))

    async def list_branches(self, _: ListBranches) -> BranchList:
        """Answer ListBranches."""
        feed = self._feed.feeds[HEADS]
        epoch, number, heads = feed.epoch, feed.number, dict(self._standing.heads)
        return BranchList(branches=await self._past.branches(heads), epoch=epoch, number=number)

    def head(self, branch: str) -> Id | None:
        """Return the latest commit of a branch, None for a master that has none; raises NotFound."""
        head = self._standing.heads.get(branch)
        if head is None and branch != MASTER:
            raise NotFound(f"there is no branch {branch[:100]!r}", hint="`jitsu branch` lists them")
        return head


def _hex(id: Id | None) -> str:
    return "" if id is None else id.hex()
