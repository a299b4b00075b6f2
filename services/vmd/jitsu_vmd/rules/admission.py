"""How much may boot and run at once (G10): which VM may start now, and what the others are waiting for.

A VM that is not admitted waits: higher priority first, and of equal priority the one that has waited longest. The
shortage that it waits for ends in one of two ways: another VM has finished booting, or another VM has stopped. In the
second case the reaper looks for a VM that may be evicted (`VmStatus.wants_room`). Until one has stopped, no VM of lower
priority takes a slot or memory that becomes free.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import Refused
from jitsu_protocol.model.states import AT_REST, VmState
from jitsu_vmd.rules.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.rules.events import SummonRequested
    from jitsu_vmd.rules.summon import VmMachine

MAX_QUEUED = 10_000
PATIENCE_S = 30.0
"""A VM that nobody has asked for again for this long loses its turn: its clients have gone."""
REPLY_S = 0.1
"""A query is told this long before the end of its `max_wait` why the VM does not start."""


@dataclass(frozen=True)
class Shortage:
    """What keeps a VM from starting now."""

    reason: str
    needs_stop: bool
    """It ends when another VM stops; otherwise when another VM has booted."""


@dataclass
class _Waiting:
    event: SummonRequested
    since: float
    asked_at: float
    shortage: Shortage


@dataclass
class Admission:
    """The limits of one host, and the VMs that wait; a limit of 0 is none. Memory is in KiB."""

    max_booting: int = 0
    max_running: int = 0
    max_memory: int = 0
    tally: Tally = field(default_factory=Tally)
    """What all VMs use now; the fleet keeps it up to date."""
    blocked: Callable[[VM], Shortage | None] = lambda _: None
    """What keeps a VM from starting whatever the limits are."""
    _queue: dict[str, _Waiting] = field(default_factory=dict)

    def limit(self, max_booting: int, max_running: int, max_memory: int) -> None:
        """Use other limits from now on; VMs that run beyond them go on running."""
        self.max_booting, self.max_running, self.max_memory = max_booting, max_running, max_memory

    def check(self, vm: VM) -> None:
        """Raise Refused if a VM can never be admitted."""
        if self.max_memory and memory(vm) > self.max_memory:
            raise Refused(f"memory: {memory(vm)} KiB are more than hypervisor.max_memory allows for all VMs together")

    def shortage(self, vm: VM, machines: Mapping[str, VmMachine]) -> Shortage | None:
        """Return what keeps a VM that does not run from starting now."""
        if (blocked := self.blocked(vm)) is not None:
            return blocked
        if not (self.max_booting or self.max_running or self.max_memory):
            return None
        shortage = self._shortage(machines[vm.uuid])
        if shortage is None and (ahead := self._ahead(vm, machines)):
            return Shortage(f"{ahead} VMs of higher priority wait for room", needs_stop=False)
        return shortage

    def _shortage(self, machine: VmMachine) -> Shortage | None:
        if (blocked := self.blocked(machine.vm)) is not None:
            return blocked
        usage = self.tally
        if self.max_running and usage.running >= self.max_running:
            return Shortage(f"{usage.running} VMs are running (hypervisor.max_running)", needs_stop=True)
        own = memory(machine.vm)
        used = usage.memory - (own if machine.state is VmState.PAUSED else 0)
        if self.max_memory and used + own > self.max_memory:
            return Shortage(f"{used} KiB of {self.max_memory} are in use (hypervisor.max_memory)", needs_stop=True)
        if self.max_booting and usage.booting >= self.max_booting:
            return Shortage(f"{usage.booting} VMs are booting (hypervisor.max_booting)", needs_stop=False)
        return None

    def _ahead(self, vm: VM, machines: Mapping[str, VmMachine]) -> int:
        return sum(
            waiting.shortage.needs_stop and machines[other].vm.priority > vm.priority
            for other, waiting in self._queue.items()
            if other != vm.uuid and other in machines
        )

    def queue(self, vm: str, event: SummonRequested, shortage: Shortage, now: float) -> bool:
        """Let a VM wait; returns False if too many are waiting already."""
        if vm not in self._queue and len(self._queue) >= MAX_QUEUED:
            return False
        waiting = self._queue.setdefault(vm, _Waiting(event, now, now, shortage))
        waiting.asked_at, waiting.shortage = now, shortage
        return True

    def awaiting(self, vm: str) -> SummonRequested | None:
        """Return the summon with which a VM waits; None if it is not waiting."""
        waiting = self._queue.get(vm)
        return None if waiting is None else waiting.event

    def withdraw(self, vm: str) -> SummonRequested | None:
        """Take a VM out of the queue and return its summon; None if it was not waiting."""
        waiting = self._queue.pop(vm, None)
        return None if waiting is None else waiting.event

    def __len__(self) -> int:
        """Return how many VMs are waiting."""
        return len(self._queue)

    def awaited(self, vm: str) -> Shortage | None:
        """Return what a VM is waiting for; None if it is not waiting."""
        waiting = self._queue.get(vm)
        return None if waiting is None else waiting.shortage

    def waiting(self) -> dict[str, Shortage]:
        """Return all VMs that are waiting, and for what."""
        return {vm: waiting.shortage for vm, waiting in self._queue.items()}

    def may_evict(self, vm: VM, machines: Mapping[str, VmMachine]) -> bool:
        """Say whether a VM may be evicted: one that is at least as important waits for what it has."""
        return vm.evict and any(
            waiting.shortage.needs_stop and machines[other].vm.priority >= vm.priority
            for other, waiting in self._queue.items()
            if other in machines
        )

    def next(self, machines: Mapping[str, VmMachine], now: float) -> tuple[str, SummonRequested] | None:
        """Take the first VM that may start now out of the queue; None: the shortages of all others are up to date."""
        for vm, waiting in list(self._queue.items()):
            # A summon that came when there was no shortage has started its VM before its turn.
            machine = machines.get(vm)
            waits = machine is not None and machine.state in AT_REST and not machine.terms.removed
            waits = waits and now < waiting.asked_at + PATIENCE_S
            if not waits:
                del self._queue[vm]
        kept_for = None  # the highest priority that waits for another VM to stop
        for vm in sorted(self._queue, key=lambda vm: (-machines[vm].vm.priority, self._queue[vm].since)):
            machine, waiting = machines[vm], self._queue[vm]
            shortage = self._shortage(machine)
            if shortage is not None:
                waiting.shortage = shortage
                if shortage.needs_stop and kept_for is None:
                    kept_for = machine.vm.priority
            elif kept_for is None or machine.vm.priority >= kept_for:
                del self._queue[vm]
                return vm, replace(waiting.event, queued_s=now - waiting.since)
        return None

    def deadline(self) -> float | None:
        """Return when the first of the waiting VMs loses its turn."""
        return min((waiting.asked_at + PATIENCE_S for waiting in self._queue.values()), default=None)


def patience_s(vm: VM, event: SummonRequested) -> float:
    """Return how long a requester waits for admission before it is told what the VM is waiting for."""
    if event.trigger == "dns":
        return max(vm.max_wait - event.waited_s - REPLY_S, REPLY_S)
    return PATIENCE_S


def memory(vm: VM) -> int:
    """Return how much memory a VM has, as far as its keys say."""
    return int(vm.value("memory"))
