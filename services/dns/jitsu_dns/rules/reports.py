"""What the next report of a replica says (jitsu_runtime.usage.UsageSource)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_dns.rules.usage import MAX_USES

if TYPE_CHECKING:
    from collections.abc import Callable

    from jitsu_dns.rules.front import Front
    from jitsu_protocol.messages import Report


class ReplicaReports:
    """The reports of one replica."""

    def __init__(self, front: Front, warnings: Callable[[], list[str]]) -> None:
        """`warnings` returns what an operator should fix now."""
        self._front, self._warnings = front, warnings

    def prepare(self) -> bool:
        """Bring some of what the warm path has counted to the names, unless the last report has left some over."""
        return not len(self._front.usage) and self._front.warm.count(MAX_USES)

    def report(self, now: float, *, leaving: bool = False) -> Report:
        """Return the next report, or again the one that was not acknowledged."""
        if leaving:
            return self._front.usage.report((), now, leaving=True)
        return self._front.usage.report(self.drains(), now, warnings=self._warnings())

    def acknowledged(self, sent_at: float) -> None:
        """Note that the reaper has the report that was sent then."""
        self._front.usage.acknowledged(sent_at)

    def has_more(self) -> bool:
        """Return whether names are left that the last report had no room for."""
        return len(self._front.usage) > 0

    def drains(self) -> list[str]:
        """Return the drains that this replica honours."""
        return self._front.states.drains()

    def reported(self) -> None:
        """Nothing depends on whether a report has arrived."""
