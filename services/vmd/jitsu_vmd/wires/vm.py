"""One VM, as vmd has it in the world: it drives the VM's machine, makes the calls that the machine asks for, and keeps
those who wait for an answer.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.messages import Summoned
from jitsu_protocol.model.errors import JitsuError
from jitsu_protocol.model.guests import is_found_elsewhere
from jitsu_protocol.model.states import VmState
from jitsu_protocol.model.vm_keys import HandoverKind
from jitsu_runtime.clock import sleep
from jitsu_runtime.driver import Driver
from jitsu_vmd.rules import events
from jitsu_vmd.rules.fleet_events import CallEnded, HintReceived, SummonRepeated, VmActed
from jitsu_vmd.wires.hypervisors import failure
from jitsu_vmd.wires.probe import wait_for_port

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitsu_protocol.messages import Message, Trigger
    from jitsu_protocol.model.vm_keys import StopMode
    from jitsu_runtime.clock import Timer
    from jitsu_vmd.rules.fleet_events import FleetEvent
    from jitsu_vmd.rules.summon import VmMachine
    from jitsu_vmd.wires.outside import OutsideCalls
    from jitsu_vmd.wires.statuses import Statuses

REARM_S = 1.0
LOOK_LATER_S = 0.3
"""After a start, if Synjitsu knows the interface already: while it and others boot, clients need the processors."""

log = structlog.get_logger("vmd")


@dataclass(eq=False)
class Waiter:
    """Somebody who waits for a VM to be reachable."""

    trigger: Trigger
    reply: asyncio.Future[Message] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    patience: Timer | None = None
    """Limits its wait for admission; None if it does not wait for that."""

    def refuse(self, error: JitsuError) -> None:
        """Reply with an error, unless there is a reply already."""
        if not self.reply.done():
            self.reply.set_exception(error)


class Vm:
    """One VM."""

    def __init__(
        self, machine: VmMachine, outside: OutsideCalls, statuses: Statuses, report: Callable[[FleetEvent], None]
    ) -> None:
        """`report` tells the fleet."""
        self.machine = machine
        self._outside = outside
        self._statuses = statuses
        self._report = report
        self._driver = Driver[events.Event, events.Action](machine, self._perform, outside.world.clock)
        self._waiters: dict[Waiter, None] = {}
        self._watch: asyncio.Task[None] | None = None
        self._stopped: list[asyncio.Future[None]] = []

    def handle(self, event: events.Event) -> None:
        """Give the machine an event; raises what the requester is to be told."""
        self._driver.handle(event)

    def close(self) -> None:
        """Stop the timer: the VM is gone."""
        self._driver.close()

    # --- those who wait ---

    def wait(self, trigger: Trigger) -> Waiter:
        """Return a new waiter, which will have the reply."""
        if self.machine.state in (VmState.STARTING, VmState.BOOTING):
            self._outside.joined.inc()
        waiter = Waiter(trigger)
        self._waiters[waiter] = None
        return waiter

    async def reply(self, waiter: Waiter) -> Message:
        """Return the reply to a waiter, once there is one."""
        try:
            return await waiter.reply
        finally:
            self.leave(waiter)

    def leave(self, waiter: Waiter) -> None:
        """Note that somebody no longer waits."""
        self._waiters.pop(waiter, None)
        if waiter.patience is not None:
            waiter.patience.cancel()

    async def stopped(self) -> None:
        """Wait until the VM no longer stops."""
        stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stopped.append(stopped)
        await stopped

    def _answer(self, answer: events.AnswerSummons) -> None:
        guest = self.machine.guest
        for waiter in [each for each in self._waiters if each.trigger == "dns" or not answer.early]:
            del self._waiters[waiter]
            if answer.error is not None:
                waiter.refuse(answer.error)
            elif not waiter.reply.done():
                addresses = [str(address) for address in guest.addresses]
                waiter.reply.set_result(Summoned(armed=answer.armed, addresses=addresses))

    # --- what the machine wants done ---

    def _perform(self, actions: Sequence[events.Action]) -> None:
        uuid, outside, again, published = self.machine.vm.uuid, self._outside, None, False
        spawn = outside.world.spawn
        # Who waits is answered first: a client's time counts, a subscriber's does not.
        for action in sorted(actions, key=lambda action: not isinstance(action, events.AnswerSummons)):
            match action:
                case events.AnswerSummons():
                    self._answer(action)
                case events.ArmSynjitsu(call, is_there):
                    if not is_there:
                        outside.seen.starts(uuid)
                    spawn(self._arm(call, is_there))
                case events.DisarmSynjitsu(outcome):
                    spawn(outside.disarm(uuid, outcome))
                case events.StartGuest():
                    spawn(self._start(action))
                case events.StopGuest(call, mode):
                    spawn(self._stop(call, mode))
                case events.WatchGuest(call):
                    self._watch = spawn(self._watch_guest(call))
                case events.SummonAgain(event):
                    again = event
                case events.PublishState():
                    published = True  # with the state that it has after all actions
                case events.RecordStart():
                    outside.statistics.started(self.machine)
        if published:
            self._publish()
        outside.history.record(self.machine)
        outside.vm_metrics.moved(self.machine)
        self._report(VmActed(self.machine, published))
        if again is not None:
            self._report(SummonRepeated(uuid, again))

    def _publish(self) -> None:
        self._statuses.changed(self.machine)
        if self.machine.state is not VmState.BOOTING and self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self.machine.state is not VmState.STOPPING:
            for stopped in self._stopped:
                if not stopped.done():
                    stopped.set_result(None)
            self._stopped.clear()

    # --- calls to the world ---

    async def _arm(self, call: int, is_there: bool) -> None:
        armed = await self._outside.arm(self.machine.vm, self.machine.guest, is_there=is_there)
        self.handle(events.ArmReturned(call, armed))

    async def _start(self, action: events.StartGuest) -> None:
        machine, hypervisors = self.machine, self._outside.hypervisors
        if not action.is_there:
            self._outside.seen.starts(machine.vm.uuid)
        saved_as = action.saved_as or machine.vm
        error = await failure(hypervisors.discard(saved_as)) if action.discard else None
        error = error or await failure(hypervisors.start(machine.guest))
        self.handle(events.StartReturned(action.call, error))
        # Synjitsu needs to know at which interface the guest is; and when it has been seen to run, its save is useless.
        looks_later = not error and self._outside.seen.is_expected(machine.vm.uuid)
        self._report(CallEnded(machine.vm.uuid, look=not looks_later))
        if looks_later:
            await sleep(self._outside.world.clock, LOOK_LATER_S)
            self._report(HintReceived(machine.vm.uuid))

    async def _stop(self, call: int, mode: StopMode) -> None:
        machine, guest = self.machine, self.machine.guest
        self._outside.stops.labels(mode.value).inc()
        error = await failure(self._outside.hypervisors.stop(guest, mode))
        if not error and not machine.terms.removed and is_found_elsewhere(guest, machine.vm):
            await self._outside.forget(guest)
        self.handle(events.StopReturned(call, error))
        self._report(CallEnded(machine.vm.uuid, look=error is not None))

    async def _watch_guest(self, call: int) -> None:
        vm = self.machine.vm
        if vm.wait_for_port is not None:
            await wait_for_port(vm, self._outside.world.clock)
        elif self.machine.terms.watches_keys and vm.wait_for_key:
            if (error := await failure(self._outside.hypervisors.wait_for_key(vm))) is not None:
                log.warning("cannot watch the VM's Xenstore key", vm=vm.name, reason=str(error))
        else:
            await self._while_armed()
        self.handle(events.MaskSignalled(call))

    async def _while_armed(self) -> None:
        """Return when Synjitsu no longer holds the VM's addresses, and will not report when the guest is there.

        A Synjitsu that has died in the meantime and is back holds them again. A guest that looks into Xenstore may do
        so as soon as it is known which domain it is.
        """
        machine = self.machine
        domain: int | None = None
        every_s = min(REARM_S, 0.3 * machine.vm.boot_limit)  # what Synjitsu notes must be known when the boot fails
        waits = 0.0 if machine.vm.handover is HandoverKind.XENSTORE else every_s
        while True:
            await sleep(self._outside.world.clock, waits)
            waits = every_s
            try:
                if machine.vm.handover is HandoverKind.XENSTORE and domain is None:
                    domain = await self._outside.hypervisors.domain_id(machine.vm)
                machine.boot.note = await self._outside.arm_again(machine.vm, domain, REARM_S)
            except JitsuError as error:
                log.warning("Synjitsu is gone: the boot is hidden by delay", vm=machine.vm.name, reason=str(error))
                return
