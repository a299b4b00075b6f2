"""What all VMs of one vmd share of the world: their hypervisors, Synjitsu, the store, and what is kept of summons."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.messages import Disarm, Done
from jitsu_protocol.model.errors import JitsuError
from jitsu_vmd.wires.held import ArmPatience, arm_request, nic_of_next_start
from jitsu_vmd.wires.history import SummonHistory
from jitsu_vmd.wires.hypervisors import failure
from jitsu_vmd.wires.seen import Sightings
from jitsu_vmd.wires.statistics import Statistics
from jitsu_vmd.wires.vm_metrics import VmMetrics

if TYPE_CHECKING:
    from typing import Literal

    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.world import Caller, World
    from jitsu_vmd.wires.hypervisors import Hypervisors

DISARM_TIMEOUT_S = 30.0

log = structlog.get_logger("vmd")


class OutsideCalls:
    """Calls that are about one VM each."""

    def __init__(self, world: World, hypervisors: Hypervisors, store: Caller) -> None:
        self.world = world
        self.hypervisors = hypervisors
        self.seen = Sightings()
        self.vm_metrics = VmMetrics(world)
        self.history = SummonHistory(world.metrics, world.clock, self.vm_metrics)
        self.statistics = Statistics(store, world.spawn, world.clock)
        self.joined = world.metrics.counter("joined_summons", "Requests that joined a summon under way.")
        self.stops = world.metrics.counter("stops", "Stop calls to the hypervisor.", ["mode"])
        about = "How often a connection broke because of a fault in the code for its kind."
        world.metrics.counted_by("connection_faults", about, ["connection"], hypervisors.faults)
        self._synjitsu = world.client("synjitsu")
        self._patience = ArmPatience()

    async def arm(self, vm: VM, guest: VM, *, is_there: bool) -> bool:
        """Ask Synjitsu to hold a VM's addresses, and return whether it does."""
        nic = self.seen.nic(vm)
        nic = nic if is_there else await nic_of_next_start(self.hypervisors, guest, nic)
        self.seen.expect(vm.uuid, is_known=bool(nic.interface))
        clock = self.world.clock
        try:
            limit_s = self._patience.limit_s(clock.now())
            await self._synjitsu.call(arm_request(vm, nic, is_there=is_there), Done, limit_s)
            armed = True
        except JitsuError as error:
            log.warning("Synjitsu is not armed: the boot is hidden by delay", vm=vm.name, reason=str(error))
            armed = False
        self._patience.note(clock.now(), answered=armed)
        return armed

    async def arm_again(self, vm: VM, domain: int | None, limit_s: float) -> str:
        """Ask again during the boot, and return what Synjitsu reports about the guest; raises JitsuError."""
        request = arm_request(vm, self.seen.nic(vm), domain, is_there=True)
        return (await self._synjitsu.call(request, Done, limit_s)).note

    async def disarm(self, vm: str, outcome: Literal["ready", "failed"]) -> None:
        """Report to Synjitsu how a boot ended."""
        request = Disarm(vm=vm, outcome=outcome)
        try:
            await self._synjitsu.call(request, Done, DISARM_TIMEOUT_S)
        except JitsuError as error:
            log.warning("a request failed", owner="synjitsu", kind=request.kind, reason=str(error))

    async def forget(self, vm: VM) -> None:
        """Remove what the hypervisor has of a VM that is off."""
        if (error := await failure(self.hypervisors.forget(vm))) is not None:
            log.warning("cannot remove what was made for a VM", vm=vm.name, reason=str(error))
