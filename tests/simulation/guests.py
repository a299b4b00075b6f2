"""A host with guests in memory: it outlives vmd, as a hypervisor does."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import BootFailed
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_vmd.hypervisor import Examined, Guest
from jitsu_vmd.rules.events import GuestState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitsu_protocol.model.vm import VM
    from tests.simulation.simulation import Simulation

LOOK_S = 1.0
_STOPPED = {
    StopMode.DESTROY: GuestState.OFF,
    StopMode.SHUTDOWN: GuestState.OFF,
    StopMode.SUSPEND: GuestState.SUSPENDED,
    StopMode.PAUSE: GuestState.PAUSED,
}


@dataclass
class SimulatedGuest:
    """What runs, or is kept."""

    state: GuestState
    since: float


@dataclass
class GuestHost:
    """The guests of one host, by uuid."""

    simulation: Simulation
    guests: dict[str, SimulatedGuest] = field(default_factory=dict)
    boots: list[tuple[float, str]] = field(default_factory=list)
    """When a guest that did not run was started, by the name of its VM."""
    stops: list[tuple[float, str]] = field(default_factory=list)
    fails: set[str] = field(default_factory=set)
    """Names of VMs that do not start."""
    call_s: tuple[float, float] = (0.001, 0.02)
    """How long a call takes: from, and to."""
    stopping: Callable[[str], None] = lambda _: None
    """Called with the name of a VM that is about to be stopped."""

    def runs(self, vm: VM) -> bool:
        """Say whether a VM's guest runs."""
        return vm.uuid in self.guests and self.guests[vm.uuid].state is GuestState.RUNNING

    def die(self, vm: VM) -> None:
        """Let a guest end by itself."""
        if self.guests.pop(vm.uuid, None) is not None:
            self.simulation.note(f"guest     {vm.name} has died")

    def start(self, vm: VM) -> None:
        """Start what does not run."""
        if vm.name in self.fails:
            raise BootFailed(f"the host refuses to start {vm.name}")
        if not self.runs(vm):
            self.boots.append((self.simulation.now, vm.name))
            self.guests[vm.uuid] = SimulatedGuest(GuestState.RUNNING, self.simulation.now)
            self.simulation.note(f"guest     {vm.name} is started")
            self.simulation.traced("boot", vm.name)

    def stop(self, vm: VM, how: StopMode) -> None:
        """Stop what runs."""
        if self.runs(vm):
            self.stopping(vm.name)
            self.stops.append((self.simulation.now, vm.name))
            self.simulation.note(f"guest     {vm.name} is stopped")
            self.simulation.traced("stop", vm.name)
            if (after := _STOPPED[how]) is GuestState.OFF:
                del self.guests[vm.uuid]
            else:
                self.guests[vm.uuid] = SimulatedGuest(after, self.simulation.now)


class SimulatedHypervisor:
    """A vmd's connection to a host (jitsu_vmd.hypervisor.Hypervisor)."""

    name = "guests in memory"

    def __init__(self, host: GuestHost) -> None:
        self._host = host

    def check(self, vm: VM) -> None:
        """Every VM can run."""

    async def examine(self, vms: Sequence[VM]) -> dict[str, Examined]:
        return {}

    async def open(self) -> None:
        await self._takes()

    async def run(self, changed: Callable[[str], None]) -> None:
        """Look at all now and then, as for a hypervisor that says nothing by itself."""
        while True:
            await asyncio.sleep(LOOK_S)
            changed("")

    async def guests(self, vms: Sequence[VM]) -> dict[str, Guest]:
        await self._takes()
        now, guests = self._host.simulation.now, self._host.guests
        found = {vm.uuid: guests[vm.uuid] for vm in vms if vm.uuid in guests}
        return {
            uuid: Guest(each.state, up_s=now - each.since if each.state is GuestState.RUNNING else None)
            for uuid, each in found.items()
        }

    async def start(self, vm: VM) -> None:
        await self._takes()
        self._host.start(vm)
        await self._takes()

    async def stop(self, vm: VM, how: StopMode) -> None:
        await self._takes()
        self._host.stop(vm, how)
        await self._takes()

    async def discard(self, vm: VM) -> None:
        await self._takes()

    async def forget(self, vm: VM) -> None:
        await self._takes()

    async def _takes(self) -> None:
        """A vmd that is killed in a call may have made it, or not."""
        await asyncio.sleep(self._host.simulation.chance.uniform(*self._host.call_s) / 2)
