"""How much may boot and run at once (G10): who may start now, and who waits for what.

Who finds no room waits, the higher priority first and then who has waited longest. What it waits for says what ends
that: another VM that has booted, or one that runs no more. For the second the reaper looks for one that may be evicted
(`VmStatus.wants_room`); until one has stopped, nobody of lower priority takes a room that comes free.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from jitsu_protocol.model.states import AT_REST, VmState
from jitsu_vmd.rules.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.rules.events import SummonRequested
    from jitsu_vmd.rules.summon import VmMachine

MAX_QUEUED = 10_000
PATIENCE_S = 30.0
"""A VM that nobody has asked for again for longer is given up: who wanted it has gone."""


@dataclass(frozen=True)
class Lack:
    """What keeps a VM from starting now."""

    reason: str
    of_room: bool
    """It ends when another VM runs no more; else when one has booted."""


@dataclass
class _Waiting:
    event: SummonRequested
    since: float
    asked_at: float
    lack: Lack


@dataclass
class Room:
    """The limits of one host; 0 is no limit. Memory is in KiB."""

    max_booting: int = 0
    max_running: int = 0
    max_memory: int = 0
    tally: Tally = field(default_factory=Tally)
    """What all VMs use now; whoever has the machines keeps it up to date."""
    blocked: Callable[[VM], Lack | None] = lambda _: None
    """What keeps a VM from starting that is not a question of room."""
    _queue: dict[str, _Waiting] = field(default_factory=dict)

    def limit(self, max_booting: int, max_running: int, max_memory: int) -> None:
        """Take other limits from now on; what runs beyond them runs on."""
        self.max_booting, self.max_running, self.max_memory = max_booting, max_running, max_memory

    def never(self, vm: VM) -> str:
        """Return why there can never be room for a VM, or nothing."""
        if self.max_memory and memory(vm) > self.max_memory:
            return f"memory: {memory(vm)} KiB are more than hypervisor.max_memory allows for all VMs together"
        return ""

    def lack(self, vm: VM, machines: Mapping[str, VmMachine]) -> Lack | None:
        """Return what keeps a VM that does not run from starting now."""
        if (blocked := self.blocked(vm)) is not None:
            return blocked
        if not (self.max_booting or self.max_running or self.max_memory):
            return None
        lack = self._lack(machines[vm.uuid])
        if lack is None and (ahead := self._ahead(vm, machines)):
            return Lack(f"{ahead} VMs of higher priority wait for room", of_room=False)
        return lack

    def _lack(self, machine: VmMachine) -> Lack | None:
        if (blocked := self.blocked(machine.vm)) is not None:
            return blocked
        usage = self.tally
        if self.max_running and usage.running >= self.max_running:
            return Lack(f"{usage.running} VMs are running (hypervisor.max_running)", of_room=True)
        own = memory(machine.vm)
        used = usage.memory - (own if machine.state is VmState.PAUSED else 0)
        if self.max_memory and used + own > self.max_memory:
            return Lack(f"{used} KiB of {self.max_memory} are in use (hypervisor.max_memory)", of_room=True)
        if self.max_booting and usage.booting >= self.max_booting:
            return Lack(f"{usage.booting} VMs are booting (hypervisor.max_booting)", of_room=False)
        return None

    def _ahead(self, vm: VM, machines: Mapping[str, VmMachine]) -> int:
        return sum(
            waiting.lack.of_room and machines[other].vm.priority > vm.priority
            for other, waiting in self._queue.items()
            if other != vm.uuid and other in machines
        )

    def queue(self, vm: str, event: SummonRequested, lack: Lack, now: float) -> bool:
        """Have a VM wait for room; False if too many wait."""
        if vm not in self._queue and len(self._queue) >= MAX_QUEUED:
            return False
        waiting = self._queue.setdefault(vm, _Waiting(event, now, now, lack))
        waiting.asked_at, waiting.lack = now, lack
        return True

    def withdraw(self, vm: str) -> SummonRequested | None:
        """Have a VM wait no longer, and return who asked for it; None if it does not wait."""
        waiting = self._queue.pop(vm, None)
        return None if waiting is None else waiting.event

    def __len__(self) -> int:
        """Return how many VMs wait for room."""
        return len(self._queue)

    def waits(self, vm: str) -> Lack | None:
        """Return what a VM waits for, None if it does not wait."""
        waiting = self._queue.get(vm)
        return None if waiting is None else waiting.lack

    def waiting(self) -> dict[str, Lack]:
        """Return all that wait, and for what."""
        return {vm: waiting.lack for vm, waiting in self._queue.items()}

    def gives_way(self, vm: VM, machines: Mapping[str, VmMachine]) -> bool:
        """Say whether a VM may be evicted: one that is as important waits for what it has."""
        return vm.evict and any(
            waiting.lack.of_room and machines[other].vm.priority >= vm.priority
            for other, waiting in self._queue.items()
            if other in machines
        )

    def next(self, machines: Mapping[str, VmMachine], now: float) -> tuple[str, SummonRequested] | None:
        """Take out the first that may start now; what the others wait for is known anew when there is none."""
        for vm, waiting in list(self._queue.items()):
            # Who asked when there was room again has had it started before its turn.
            machine = machines.get(vm)
            waits = machine is not None and machine.state in AT_REST and not machine.terms.removed
            waits = waits and now < waiting.asked_at + PATIENCE_S
            if not waits:
                del self._queue[vm]
        kept = None  # the highest priority that waits for room
        for vm in sorted(self._queue, key=lambda vm: (-machines[vm].vm.priority, self._queue[vm].since)):
            machine, waiting = machines[vm], self._queue[vm]
            lack = self._lack(machine)
            if lack is not None:
                waiting.lack = lack
                if lack.of_room and kept is None:
                    kept = machine.vm.priority
            elif kept is None or machine.vm.priority >= kept:
                del self._queue[vm]
                return vm, replace(waiting.event, queued_s=now - waiting.since)
        return None

    def next_deadline(self) -> float | None:
        """Return when the first of those that wait is given up."""
        return min((waiting.asked_at + PATIENCE_S for waiting in self._queue.values()), default=None)


def memory(vm: VM) -> int:
    """Return how much memory a VM has, as far as its keys say."""
    return int(vm.key("memory"))
