"""The latest summons that ended, each with its timeline, for `jitsu trace` and the metrics."""

from __future__ import annotations

import uuid
from collections import deque
from typing import TYPE_CHECKING, get_args

import structlog

from jitsu_protocol.messages import Timeline, Timelines, Trace, Trigger
from jitsu_protocol.model.states import VmState

if TYPE_CHECKING:
    from jitsu_runtime.clock import Clock
    from jitsu_runtime.metrics import Metrics
    from jitsu_vmd.rules.summon import VmMachine
    from jitsu_vmd.wires.vm_metrics import VmMetrics

KEPT = 1000

log = structlog.get_logger("vmd")


class SummonHistory:
    """The last KEPT summons that have ended."""

    def __init__(self, metrics: Metrics, clock: Clock, vm_metrics: VmMetrics) -> None:
        self._clock = clock
        self._vm_metrics = vm_metrics
        self._timelines: deque[Timeline] = deque(maxlen=KEPT)
        self._summons = metrics.counter("summons", "Summons that ended.", ["trigger", "outcome"])
        for trigger in get_args(Trigger):
            for outcome in ("ready", "failed"):
                self._summons.labels(trigger, outcome)  # a rate needs the 0 before the first one
        self._boot = metrics.histogram("summon_seconds", "From the summon to ready.")

    def record(self, machine: VmMachine) -> None:
        """Record the summons of a VM that have ended since the last call, and remove them from its machine."""
        for done in machine.summons.finished:
            begun, ended = dict(done.stages)["summon"], done.stages[-1][1]
            self._summons.labels(done.trigger, "ready" if done.outcome == "ready" else "failed").inc()
            timeline = Timeline(
                summon=uuid.uuid4().hex[:12],
                vm=machine.vm.uuid,
                name=machine.vm.name,
                trigger=done.trigger,
                ts=self._clock.wall() - (self._clock.now() - begun),
                joined=done.joined,
                stages=done.stages,
                outcome=done.outcome,
                by=done.by,
            )
            self._boot.observe(ended - begun, {"summon": timeline.summon})
            self._vm_metrics.booted(timeline, ended - begun)
            self._timelines.append(timeline)
        machine.summons.finished.clear()

    def trace(self, request: Trace) -> Timelines:
        """Answer Trace."""
        found = [each for each in self._timelines if not request.vm or request.vm in (each.vm, each.name)]
        return Timelines(timelines=found[-request.limit :])


def log_state(machine: VmMachine, *, is_news: bool) -> None:
    """Log the state that a VM has now; at a lower level while vmd still learns which guests run."""
    vm = machine.vm.name
    match machine.state:
        case VmState.FAILED:
            log.warning("boot failed", vm=vm, reason=machine.error)
        case VmState.OFF if not machine.summons.starts:
            log.debug("off", vm=vm)  # it is new: ten thousand such lines say nothing
        case VmState.READY | VmState.SUSPENDED | VmState.PAUSED | VmState.OFF if is_news:
            log.info(machine.state.value, vm=vm)
        case _:
            log.debug(machine.state.value, vm=vm)
