"""How a follower of the store reads much in pages, so that neither of the two is busy with it for long.

A snapshot of all VMs (`VmPages`) comes in pages of PAGE_LEAVES leaves. Later pages may be newer than the first. The
snapshot therefore counts as the state at the first page's number, and what the feed brings after that number is applied
on top: applying a change a second time does no harm.

The commits of a branch (`CommitPages`) come in pages too, each from the commit that was read last. The position is kept
when a page does not come, so no commit is missed and none is read twice, however long the store was away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.messages import ChangesSince, List
from jitsu_protocol.model.vm import VM_ROOT

if TYPE_CHECKING:
    from jitsu_protocol.messages import ChangesList, Leaves

PAGE_LEAVES = 2000
"""How many leaves a page has: a service that follows the store does its other work between two pages."""


class VmPages:
    """Reads one snapshot of all VMs."""

    def __init__(self) -> None:
        self.first: Leaves | None = None
        """The first page, which says where the snapshot stands."""
        self._after: str | None = ""

    def request(self) -> List | None:
        """Return the request for the next page; None when all have been received."""
        if self._after is None:
            return None
        return List(prefix=VM_ROOT, topic="vm", after=self._after, limit=PAGE_LEAVES)

    def received(self, page: Leaves) -> None:
        """Note the page that was asked for."""
        self.first = self.first or page
        self._after = page.upto or None


class CommitPages:
    """Reads the commits of a branch that change something below a path, each once and in order."""

    def __init__(self, branch: str, prefix: str, since: str) -> None:
        """`since` is the commit after which reading begins."""
        self._branch, self._prefix, self._since = branch, prefix, since

    def request(self) -> ChangesSince:
        """Return the request for the next page."""
        return ChangesSince(since=self._since, branch=self._branch, prefix=self._prefix)

    def received(self, page: ChangesList) -> bool:
        """Note a page, and return whether the next one can be asked for at once."""
        self._since = page.upto
        return page.more
