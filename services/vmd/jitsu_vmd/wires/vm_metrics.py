"""The metrics of the VMs: those of all together, and those that have a label `vm`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from jitsu_protocol.model.states import VmState
from jitsu_runtime.metrics import counter_of, exemplar_of, gauge_of, histogram_of
from jitsu_vmd.rules.admission import memory
from jitsu_vmd.rules.vm_totals import Exemplar, VmTotals

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prometheus_client.core import Metric
    from prometheus_client.samples import Exemplar as BucketExemplar

    from jitsu_protocol.messages import Timeline
    from jitsu_runtime.world import World
    from jitsu_vmd.rules.fleet import Fleet
    from jitsu_vmd.rules.summon import VmMachine
    from jitsu_vmd.rules.vm_totals import VmRow

KIB = 1024
BOUNDS_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Of the boots of one VM. Each is a line of every scrape for each VM, so there are fewer than for all together."""


class VmMetrics:
    """Keeps the totals of each VM, and shows them when they are scraped."""

    def __init__(self, world: World) -> None:
        self._clock = world.clock
        self._is_served = bool(world.settings.metrics("vmd"))
        limit = world.settings.hypervisor.vm_metrics if self._is_served else 0
        self._totals = VmTotals(BOUNDS_S, limit)
        self._fleet: Fleet | None = None
        self._metrics = world.metrics

    def watch(self, fleet: Fleet) -> None:
        """Publish the metrics of a fleet; names and states are those at the time of the scrape."""
        self._fleet = fleet
        metrics, admission, tally = self._metrics, fleet.admission, fleet.admission.tally
        metrics.gauge("queued", "VMs that wait for room to start.", lambda: float(len(admission)))
        for state in VmState:
            metrics.gauge(f"vms_{state}", f"VMs that are {state}.", partial(tally.count, state))
        metrics.gauge("memory_held_bytes", "Memory of the VMs that hold it.", lambda: float(tally.memory * KIB))
        metrics.gauge(
            "memory_saved_bytes", "Memory of the VMs that have no guest.", lambda: float(tally.saved_memory * KIB)
        )
        metrics.gathered(self._gather)

    @property
    def _machines(self) -> Mapping[str, VmMachine]:
        return {} if self._fleet is None else self._fleet.machines

    def limit(self, vms: int) -> None:
        """Adopt another limit on the number of VMs; VMs that have no row get one when they change next."""
        if self._is_served:
            self._totals.limit = vms
            for machine in self._machines.values():
                self.moved(machine)

    def notes(self) -> list[str]:
        """Return what an operator should know."""
        vms, limit = len(self._machines), self._totals.limit
        if not limit or vms <= limit:
            return []
        return [f"no metrics of single VMs: there are {vms}, and hypervisor.vm_metrics allows {limit}"]

    def moved(self, machine: VmMachine) -> None:
        """Note a VM's state."""
        if self._totals.limit:
            vm = machine.vm
            self._totals.moved(vm.uuid, machine.state, memory(vm) * KIB, self._clock.now(), of=len(self._machines))

    def booted(self, summon: Timeline, seconds: float) -> None:
        """Note a summon that has ended."""
        exemplar = Exemplar(summon.summon, seconds, summon.ts + seconds)
        self._totals.booted(summon.vm, summon.trigger, exemplar, is_ready=summon.outcome == "ready")

    def forget(self, vm: str) -> None:
        """Forget a VM that is no longer configured."""
        self._totals.forget(vm)

    def _gather(self) -> Iterable[Metric]:
        now = self._clock.now()
        found = [(self._machines.get(uuid), row) for uuid, row in self._totals.rows.copy().items()]
        state = gauge_of("jitsu_vm_state", "1 for the state that a VM is in, 0 for all others.", ("vm", "state"))
        boots = counter_of("jitsu_vm_boots", "Boots that ended.", ("vm", "trigger", "outcome"))
        boot_s = histogram_of("jitsu_vm_boot_seconds", "From the summon to ready.", ("vm",))
        up_s = counter_of("jitsu_vm_up_seconds", "For how long a VM was up since vmd started.", ("vm",))
        saved = counter_of(
            "jitsu_vm_memory_saved_byte_seconds",
            "Memory that a VM did not hold, times the seconds for which it did not, since vmd started.",
            ("vm",),
        )
        for machine, row in found:
            if machine is None:  # it was removed a moment ago
                continue
            name, current = machine.vm.name, machine.state
            for each in VmState:
                state.add_metric((name, each.value), float(each is current))
            for (trigger, outcome), count in row.boots.copy().items():
                boots.add_metric((name, trigger, outcome), count)
            if row.buckets:
                boot_s.add_metric((name,), _buckets(row), row.boot_s)
            up, memory_saved = row.period.totals(now)
            up_s.add_metric((name,), up)
            saved.add_metric((name,), memory_saved)
        return state, boots, boot_s, up_s, saved


def _buckets(row: VmRow) -> list[tuple[str, float] | tuple[str, float, BucketExemplar]]:
    """Return the buckets of a histogram, each with its upper bound, how many boots were not longer, and an exemplar."""
    found = row.buckets.copy()
    buckets: list[tuple[str, float] | tuple[str, float, BucketExemplar]] = []
    total = 0
    for number, bound in enumerate([*map(str, BOUNDS_S), "+Inf"]):
        count, exemplar = found.get(number, (0, None))
        total += count
        buckets.append((bound, total) if exemplar is None else (bound, total, exemplar_of(*exemplar)))
    return buckets
