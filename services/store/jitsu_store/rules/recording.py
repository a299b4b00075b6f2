"""Which statistics are kept: there may be only so many, whatever a service records (G9).

A statistic that is there already may always change. A new one is kept while there are not too many of its VM, or, if
there is no such VM, of VMs that are not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import Refused
from jitsu_protocol.model.vm import MAX_NAMES, STATS_ROOT, VM_ROOT
from jitsu_store.rules import access
from jitsu_store.rules.refusals import refuse

if TYPE_CHECKING:
    from jitsu_protocol.messages import Record
    from jitsu_store.rules.statistics import PendingStatistics
    from jitsu_store.rules.tree import LeafTree

MAX_RECORDED = 200_000
"""Values that wait for their commit: of 10,000 VMs, ten names each."""
MAX_STATISTICS_NAMES = 2 * MAX_NAMES
"""Of one VM: its names now, and those that it had before."""
MAX_STATISTICS_OF_NOBODY = 1000
"""VMs that have statistics and are not there."""


def record(request: Record, statistics: PendingStatistics, held: LeafTree) -> None:
    """Add what a service has recorded to the statistics that wait; raises Refused. `held` is the tree of master."""
    refuse(access.record_refusal(request.service, request.values))
    new = sum(statistics.get(path) is None for path in request.values)
    if len(statistics) + new > MAX_RECORDED:
        raise Refused("too many statistics wait to be committed")
    counts = _Counts(statistics, held)
    for path, value in request.values.items():
        if counts.is_kept(path):
            statistics.record({path: value}, request.service)


class _Counts:
    """How many names there are below a path: counted once for each request."""

    def __init__(self, statistics: PendingStatistics, held: LeafTree) -> None:
        self._statistics = statistics
        self._held = held
        self._names: dict[str, int] = {}

    def is_kept(self, path: str) -> bool:
        """Say whether a statistic is kept; if it is, it counts."""
        held, vm = self._held, access.vm_of_statistic(path)
        if held.get(path) is not None or self._statistics.get(path) is not None:
            return True
        below, most = f"{STATS_ROOT}/{vm}/dns", MAX_STATISTICS_NAMES
        if not held.names_below(f"{VM_ROOT}/{vm}"):  # it was removed just now; or it was made up
            below, most = STATS_ROOT, len(held.names_below(VM_ROOT)) + MAX_STATISTICS_OF_NOBODY
        if below not in self._names:
            self._names[below] = self._count(below)
        name = path.removeprefix(f"{below}/").partition("/")[0]
        if name not in held.names_below(below) and name not in self._statistics.names_below(below):
            if self._names[below] >= most:
                return False
            self._names[below] += 1
        return self._names[below] <= most

    def _count(self, path: str) -> int:
        """Return how many names there are below a path, with those that wait to be committed."""
        held = self._held.names_below(path)
        return len(held) + sum(name not in held for name in self._statistics.names_below(path))
