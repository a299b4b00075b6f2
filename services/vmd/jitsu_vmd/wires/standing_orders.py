"""What operators (`jitsu hold`, `jitsu keep`) and schedules ask for, as vmd knows it now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.messages import Message
from jitsu_protocol.model.errors import JitsuError
from jitsu_vmd.rules import events
from jitsu_vmd.rules.orders import Orders
from jitsu_vmd.wires.holds import Holds
from jitsu_vmd.wires.timetable import Timetable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from jitsu_runtime.world import Caller, World
    from jitsu_vmd.rules.summon import VmMachine

    Summons = Callable[[str, events.SummonRequested], Message | Awaitable[Message]]

log = structlog.get_logger("vmd")


class StandingOrders:
    """The orders for all VMs of one vmd."""

    def __init__(
        self,
        world: World,
        store: Caller,
        machine: Callable[[str], VmMachine | None],
        changed: Callable[[], None],
        summon: Summons,
    ) -> None:
        """`changed` is called when some VM may have other orders than before; `summon` may raise a JitsuError."""
        self._machine, self._summon = machine, summon
        self.holds = Holds(store, changed, world.clock)
        self.timetable = Timetable(world, machine, changed, self._start)

    def of(self, vm: str) -> Orders:
        """Return the orders for a VM; what an operator says about keeping it up goes before its schedule."""
        planned = self.timetable.schedules.orders(vm)
        return Orders(self.holds.reason(vm), self.holds.kept_reason(vm) or planned.kept, planned.asleep)

    async def _start(self, uuid: str) -> None:
        """Start a VM ahead of the time at which it is to be awake. If that fails, it is tried again later."""
        try:
            started = self._summon(uuid, events.SummonRequested("schedule"))
            if not isinstance(started, Message):
                await started
        except JitsuError as error:
            machine = self._machine(uuid)
            name = uuid if machine is None else machine.vm.name
            log.warning("could not be started by its schedule", vm=name, reason=str(error))
