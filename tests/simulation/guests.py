"""A host with guests in memory: it outlives vmd, as a hypervisor does."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import BootFailed, Unavailable
from jitsu_protocol.model.vm import uuid_for
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_vmd.hypervisor import Discovered, Examined, Guest, Nic
from jitsu_vmd.rules.events import GuestState
from tests.simulation.lan import GuestOnLan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitsu_protocol.model.vm import VM
    from tests.simulation.simulation import Simulation
    from tests.support.memory_lan import MemoryBridge

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
    machines: dict[str, Discovered] = field(default_factory=dict)
    """What it lists as its machines, by name."""
    lists: bool = True
    """It answers when it is asked for its machines."""
    bridge: MemoryBridge | None = None
    boot_s: float = 0.3
    """How long a guest on the bridge takes until it answers there."""
    on_lan: dict[str, GuestOnLan] = field(default_factory=dict)
    """By the uuid of its VM, also after it was stopped."""

    def runs(self, vm: VM) -> bool:
        """Say whether a VM's guest runs."""
        return vm.uuid in self.guests and self.guests[vm.uuid].state is GuestState.RUNNING

    def die(self, vm: VM) -> None:
        """Let a guest end by itself."""
        if self.guests.pop(vm.uuid, None) is not None:
            self._unplug(vm)
            self.simulation.note(f"guest     {vm.name} has died")

    def start(self, vm: VM) -> None:
        """Start what does not run."""
        if vm.name in self.fails:
            raise BootFailed(f"the host refuses to start {vm.name}")
        if not self.runs(vm):
            self.boots.append((self.simulation.now, vm.name))
            self.guests[vm.uuid] = SimulatedGuest(GuestState.RUNNING, self.simulation.now)
            self._plug(vm)
            self.simulation.note(f"guest     {vm.name} is started")
            self.simulation.traced("boot", vm.name)

    def stop(self, vm: VM, how: StopMode) -> None:
        """Stop what runs."""
        if self.runs(vm):
            self.stopping(vm.name)
            self.stops.append((self.simulation.now, vm.name))
            self._unplug(vm)
            self.simulation.note(f"guest     {vm.name} is stopped")
            self.simulation.traced("stop", vm.name)
            if (after := _STOPPED[how]) is GuestState.OFF:
                del self.guests[vm.uuid]
            else:
                self.guests[vm.uuid] = SimulatedGuest(after, self.simulation.now)

    def nics(self, vm: VM) -> tuple[Nic, ...]:
        """Return the interfaces of a VM that runs."""
        guest = self.on_lan.get(vm.uuid)
        if guest is None or not self.runs(vm):
            return ()
        return (Nic(vm.mac, vm.bridge, guest.station.name),)

    def _plug(self, vm: VM) -> None:
        """Connect a guest to the bridge; it is up a little later."""
        if self.bridge is None or not vm.bridge:
            return
        mac = bytes.fromhex(vm.mac.replace(":", ""))
        station = self.bridge.plug(f"tap-{vm.name}-{len(self.boots)}", lambda frame: guest.receive(frame))
        guest = self.on_lan[vm.uuid] = GuestOnLan(station, mac, vm.addresses[0].packed)
        self.simulation.at(self.simulation.now + self.boot_s, None, guest.boot)

    def _unplug(self, vm: VM) -> None:
        guest = self.on_lan.get(vm.uuid)
        if guest is not None:
            guest.is_up = False
            guest.station.bridge.unplug(guest.station)


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
        """Look at all now and then, as vmd does for a hypervisor that reports nothing by itself."""
        while True:
            await asyncio.sleep(LOOK_S)
            changed("")

    async def guests(self, vms: Sequence[VM]) -> dict[str, Guest]:
        await self._takes()
        now, guests = self._host.simulation.now, self._host.guests
        return {
            vm.uuid: Guest(each.state, now - each.since if self._host.runs(vm) else None, nics=self._host.nics(vm))
            for vm in vms
            if (each := guests.get(vm.uuid)) is not None
        }

    async def discover(self) -> Sequence[Discovered]:
        await self._takes()
        if not self._host.lists:
            raise Unavailable("the list is not there")
        runs = {uuid for uuid, guest in self._host.guests.items() if guest.state is GuestState.RUNNING}
        return [replace(each, is_running=uuid_for(each.name) in runs) for each in self._host.machines.values()]

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
