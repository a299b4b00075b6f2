"""The metrics of each VM that the reaper knows: how often it was asked for, and for how long it has not been used.

Both are read from what the reaper keeps anyway, when they are scraped; a query costs nothing more than before. The
scrape comes on a thread of its own, so it works on copies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.model.states import VmState
from jitsu_runtime.metrics import counter_of, gauge_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.core import Metric

    from jitsu_reaper.rules.reaper import Reaper
    from jitsu_runtime.world import World

IS_UP = frozenset({VmState.READY, VmState.DRAINING})


class UsageMetrics:
    """Shows the use of each VM, and how far behind each reporter is."""

    def __init__(self, world: World, reaper: Reaper) -> None:
        self.limit = world.settings.reaper.vm_metrics
        """The largest number of VMs of which there are metrics."""
        self._is_served = bool(world.settings.metrics("reaper"))
        self._clock = world.clock
        self._reaper = reaper
        world.metrics.gathered(self._gather)

    def notes(self) -> list[str]:
        """Return what an operator should know."""
        vms = len(self._reaper.policy.vms.configured)
        if not self._is_served or not self.limit or vms <= self.limit:
            return []
        return [f"no metrics of single VMs: there are {vms}, and reaper.vm_metrics allows {self.limit}"]

    def _gather(self) -> Iterable[Metric]:
        now, usage, vms = self._clock.now(), self._reaper.usage, self._reaper.policy.vms
        lag = gauge_of("jitsu_reaper_replica_lag_seconds", "Since the last report of each.", ("replica", "service"))
        for name, reporter in usage.reporters.known.copy().items():
            lag.add_metric((name, reporter.service), now - reporter.heard_at)
        queries = counter_of("jitsu_vm_queries", "Queries for the names of a VM, since it was configured.", ("vm",))
        idle = gauge_of("jitsu_vm_idle_seconds", "Since the last use of a VM that is up.", ("vm",))
        configured = vms.configured.copy()
        if len(configured) <= self.limit:
            for uuid, vm in configured.items():
                queries.add_metric((vm.name,), usage.statistics.requests(uuid))
                status = vms.states.get(uuid)
                if status is not None and status.state in IS_UP:
                    idle.add_metric((vm.name,), max(0.0, now - usage.last_use(uuid, status.host)))
        return lag, queries, idle
