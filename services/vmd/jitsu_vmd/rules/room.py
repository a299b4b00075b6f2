"""How much may boot and run at once (G10): who may start now, and who waits for what."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jitsu_protocol.states import VmState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jitsu_protocol.vm import VM
    from jitsu_vmd.rules.events import SummonRequested
    from jitsu_vmd.rules.summon import VmMachine

MAX_QUEUED = 10_000
PATIENCE_S = 30.0
"""A summon that has waited longer is given up: who wanted it has gone, or has asked again."""
_BOOTING = frozenset({VmState.STARTING, VmState.BOOTING})
_RUNNING = _BOOTING | {VmState.READY, VmState.DRAINING, VmState.STOPPING}
_IN_MEMORY = _RUNNING | {VmState.PAUSED}


@dataclass
class Room:
    """The limits of one host; 0 is no limit. Memory is in KiB."""

    max_booting: int = 0
    max_running: int = 0
    max_memory: int = 0
    _queue: dict[str, tuple[SummonRequested, float]] = field(default_factory=dict)

    def never(self, vm: VM) -> str:
        """Return why there can never be room for a VM, or nothing."""
        if self.max_memory and memory(vm) > self.max_memory:
            return f"memory: {memory(vm)} KiB are more than hypervisor.max_memory allows for all VMs together"
        return ""

    def lack(self, vm: VM, machines: Iterable[VmMachine]) -> str:
        """Return what keeps a VM from starting now, or nothing."""
        if not (self.max_booting or self.max_running or self.max_memory):
            return ""
        others = [machine for machine in machines if machine.vm.uuid != vm.uuid]
        booting = sum(machine.state in _BOOTING for machine in others)
        if self.max_booting and booting >= self.max_booting:
            return f"{booting} VMs are booting (hypervisor.max_booting)"
        running = sum(machine.state in _RUNNING for machine in others)
        if self.max_running and running >= self.max_running:
            return f"{running} VMs are running (hypervisor.max_running)"
        used = sum(memory(machine.vm) for machine in others if machine.state in _IN_MEMORY)
        if self.max_memory and used + memory(vm) > self.max_memory:
            return f"{used} KiB of {self.max_memory} are in use (hypervisor.max_memory)"
        return ""

    def queue(self, vm: str, event: SummonRequested, now: float) -> bool:
        """Have a VM wait for room; False if too many wait."""
        if vm not in self._queue and len(self._queue) >= MAX_QUEUED:
            return False
        self._queue.setdefault(vm, (event, now))
        return True

    def __len__(self) -> int:
        """Return how many VMs wait for room."""
        return len(self._queue)

    def next(self, machines: dict[str, VmMachine], now: float) -> tuple[str, SummonRequested] | None:
        """Take out the one that has waited longest and may start now."""
        for vm, (event, since) in list(self._queue.items()):
            if vm not in machines or now - since > PATIENCE_S:
                del self._queue[vm]
            elif not self.lack(machines[vm].vm, machines.values()):
                del self._queue[vm]
                return vm, event
        return None


def memory(vm: VM) -> int:
    """Return how much memory a VM has, as far as its keys say."""
    return int(vm.key("memory"))
