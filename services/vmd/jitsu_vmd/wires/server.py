"""vmd's rpc: what is asked becomes an event of the fleet or of one VM, and what the fleet wants done becomes a call."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.messages import (
    CancelDrain,
    Check,
    Checked,
    Done,
    Drain,
    Draining,
    HandedOver,
    ListVms,
    Message,
    OperatorStop,
    StartDiscarding,
    StopDrained,
    Summon,
    Trace,
    VmList,
)
from jitsu_protocol.model.errors import JitsuError, NotFound, Unavailable
from jitsu_protocol.model.identity import is_via_web
from jitsu_protocol.model.inventory import on_host
from jitsu_protocol.model.states import VmState
from jitsu_protocol.model.vm import InvalidVm, from_tree
from jitsu_runtime.driver import Driver
from jitsu_vmd.rules import events
from jitsu_vmd.rules import fleet_events as fleet
from jitsu_vmd.rules.fleet import Fleet
from jitsu_vmd.wires.learn import learn
from jitsu_vmd.wires.looks import Looks
from jitsu_vmd.wires.outside import OutsideCalls
from jitsu_vmd.wires.standing_orders import StandingOrders
from jitsu_vmd.wires.started import StartedFiles
from jitsu_vmd.wires.statuses import Statuses
from jitsu_vmd.wires.vm import Vm, Waiter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from jitsu_protocol.messages import Request
    from jitsu_protocol.model.inventory import VmChanged
    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.settings.load import Settings
    from jitsu_runtime.world import Feed, Handler, World
    from jitsu_vmd.hypervisor import Guest
    from jitsu_vmd.rules.orders import Orders
    from jitsu_vmd.rules.summon import VmMachine
    from jitsu_vmd.wires.hypervisors import Hypervisors

UNKNOWN_VM_WAIT_S = 0.5
"""dns may hear of a new VM some milliseconds before vmd does."""

log = structlog.get_logger("vmd")


class Recollection:
    """What the store and the files of an earlier vmd have about a VM (fleet.PriorKnowledge)."""

    def __init__(self, files: StartedFiles, outside: OutsideCalls, orders: StandingOrders) -> None:
        self._files, self._outside, self._orders = files, outside, orders

    def started(self, vm: str) -> VM | None:
        """Return what an earlier vmd started its guest as."""
        return self._files.recall(vm)

    def starts(self, vm: str) -> int:
        """Return how often it was started."""
        return self._outside.statistics.starts(vm)

    def orders(self, vm: str) -> Orders:
        """Return what operators and its schedule ask for now."""
        return self._orders.of(vm)


class VmDaemon:
    """All VMs of one vmd."""

    def __init__(self, world: World, hypervisors: Hypervisors, feed: Feed) -> None:
        self._world = world
        store = world.client("store")
        host = f"-{world.host}" if world.host else ""
        self._files = StartedFiles(world.settings.bus.directory / f"guests{host}")
        self.outside = OutsideCalls(world, hypervisors, store)
        self.orders = StandingOrders(
            world,
            store,
            lambda vm: self.fleet.machines.get(vm),
            lambda: self._report(fleet.OrdersReviewed()),
            self._summoned,
        )
        memory = Recollection(self._files, self.outside, self.orders)
        self.fleet = Fleet(hypervisors, memory, _limits(world.settings))
        self._driver = Driver[fleet.FleetEvent, fleet.FleetAction](self.fleet, self._perform, world.clock)
        self._report = self._driver.handle
        self.vms: dict[str, Vm] = {}
        self.looks = Looks(hypervisors, self.fleet, world.clock, self._found)
        self._statuses = Statuses(world, feed, self.fleet, self.outside.seen)
        self._complete = asyncio.Event()
        self._configured = asyncio.Event()
        self.outside.vm_metrics.watch(self.fleet)

    def handlers(self) -> dict[type[Request], Handler]:
        """Return what replies to each request."""
        return {
            Summon: self.summon,
            StartDiscarding: self.start_discarding,
            Drain: self.drain,
            StopDrained: self.stop_drained,
            CancelDrain: self.cancel_drain,
            OperatorStop: self.operator_stop,
            Check: self.check,
            ListVms: self.list_vms,
            Trace: self.outside.history.trace,
            HandedOver: self.handed_over,
        }

    def notes(self) -> list[str]:
        """Return what an operator should know."""
        waiting = len(self.fleet.admission)
        waits = [f"{waiting} VMs wait for room to start"] if waiting else []
        return self.outside.hypervisors.notes() + self.orders.holds.notes() + waits + self.outside.vm_metrics.notes()

    # --- requests ---

    def summon(self, request: Summon) -> Message | Awaitable[Message]:
        """Reply to Summon."""
        if request.vm not in self.vms:
            return self._summon_unknown(request)
        self._log_user(request, "start")
        event = events.SummonRequested(request.trigger, request.waited_s, ttl=request.ttl, by=request.by)
        return self._summoned(request.vm, event)

    def start_discarding(self, request: StartDiscarding) -> Message | Awaitable[Message]:
        """Reply to StartDiscarding."""
        self.fleet.machine(request.vm)
        self._log_user(request, "start from its disk")
        return self._summoned(request.vm, events.SummonRequested("operator", discard=True, by=request.by))

    def _summoned(self, uuid: str, event: events.SummonRequested) -> Message | Awaitable[Message]:
        vm = self.vms[uuid]
        waiter = vm.wait(event.trigger)
        try:
            self._report(fleet.SummonArrived(uuid, event, waiter))
        except JitsuError:
            vm.leave(waiter)
            raise
        return waiter.reply.result() if waiter.reply.done() else vm.reply(waiter)

    def _await_admission(self, waiter: Waiter, vm: Vm, patience_s: float) -> None:
        """Tell a waiter after a while what its VM waits for; the VM itself may still be admitted later."""

        def lose_patience() -> None:
            shortage = self.fleet.admission.awaited(vm.machine.vm.uuid)
            if shortage is not None:
                waiter.refuse(Unavailable(f"{vm.machine.vm.name} waits for room: {shortage.reason}"))

        waiter.patience = self._world.clock.call_in(patience_s, lose_patience)

    def _log_user(self, request: Summon | StartDiscarding | OperatorStop, what: str) -> None:
        """Log a start or a stop by hand that a user of jitsu-web asks for."""
        if (not isinstance(request, Summon) or request.trigger == "operator") and is_via_web(request.by):
            log.info("asked by hand", what=what, vm=self.fleet.machine(request.vm).vm.name, by=request.by)

    async def _summon_unknown(self, request: Summon) -> Message:
        if not self._complete.is_set():
            await self.orders.holds.known.wait()
            changes, statistics = await learn(self._world.client("store"), request.vm, self._world.host)
            if request.vm not in self.vms:
                self.outside.statistics.restore(statistics)
                self.configure(on_host(changes, self._world.host))
        clock = self._world.clock
        deadline = clock.now() + UNKNOWN_VM_WAIT_S
        timer = clock.call_in(UNKNOWN_VM_WAIT_S, self._configured.set)
        while request.vm not in self.vms:
            if clock.now() >= deadline:
                raise NotFound(f"no VM has the uuid {request.vm[:64]!r}")
            self._configured.clear()
            await self._configured.wait()
        timer.cancel()
        reply = self.summon(request)
        return reply if isinstance(reply, Message) else await reply

    def drain(self, request: Drain) -> Draining:
        """Reply to Drain."""
        self._report(fleet.DrainArrived(request.vm))
        return Draining(drain=self.fleet.machine(request.vm).drains.current)

    def stop_drained(self, request: StopDrained) -> Done:
        """Reply to StopDrained."""
        self._vm(request.vm).handle(events.StopApproved(request.drain))
        return Done()

    def cancel_drain(self, request: CancelDrain) -> Done:
        """Reply to CancelDrain."""
        self._vm(request.vm).handle(events.DrainCancelled(request.drain))
        return Done()

    def handed_over(self, request: HandedOver) -> Done:
        """Reply to HandedOver."""
        if not self._complete.is_set():
            raise Unavailable("vmd has just started", hint="try again in a moment")
        if request.vm in self.vms:
            self.vms[request.vm].handle(events.GuestHandedOver())
        return Done()

    async def operator_stop(self, request: OperatorStop) -> Done:
        """Reply to OperatorStop."""
        vm = self._vm(request.vm)
        self._log_user(request, "stop")
        vm.handle(events.StopRequested(request.by))
        machine = vm.machine
        if machine.state is VmState.STOPPING:
            await vm.stopped()
        if machine.runs():
            raise Unavailable(f"{machine.vm.name} {machine.error or 'was started again'}")
        return Done()

    async def check(self, request: Check) -> Checked:
        """Reply to Check."""
        vms = []
        for uuid, leaves in request.vms.items():
            with suppress(InvalidVm):  # the store has more to say about such a one
                vms.append(from_tree(uuid, leaves))
        refusals = {vm.uuid: str(refusal) for vm in vms if (refusal := self.fleet.refusal(vm)) is not None}
        examined = await self.outside.hypervisors.examine(vm for vm in vms if vm.uuid not in refusals)
        mistakes = {vm: found.mistake for vm, found in examined.items() if found.mistake}
        return Checked(
            refusals=refusals | mistakes, writes_to_disk={vm: found.writes_to_disk for vm, found in examined.items()}
        )

    async def list_vms(self, _: ListVms) -> VmList:
        """Reply to ListVms. Before all VMs are known it waits, because those that are missing would seem to be gone."""
        await self._complete.wait()
        feed = self._statuses.feed.feeds["vm"]
        return VmList(vms=self._statuses.all(), epoch=feed.epoch, number=feed.number)

    def _vm(self, uuid: str) -> Vm:
        self.fleet.machine(uuid)
        return self.vms[uuid]

    # --- what the store, the settings and the hypervisors report ---

    def reload(self, settings: Settings) -> None:
        """Adopt other limits."""
        self._report(_limits(settings))
        self.outside.vm_metrics.limit(settings.hypervisor.vm_metrics)

    def configure(self, changes: Sequence[VmChanged]) -> None:
        """Take VMs that came, went or are configured differently."""
        self.orders.timetable.configure(changes)
        self._report(fleet.FleetConfigured(changes))
        self._configured.set()

    def adopt_forgotten(self) -> None:
        """Take the guests that an earlier vmd started and that are no longer configured."""
        found = [self._files.recall(vm) for vm in self._files.unread()]
        self._report(fleet.LeftoversFound([started for started in found if started is not None]))

    def complete(self) -> None:
        """Note that all VMs are known and have been looked at: from now on changes of state are news."""
        self._report(fleet.AllKnown())
        self._complete.set()
        self.orders.timetable.begin()

    def hint(self, vm: str) -> None:
        """Take a hint of a hypervisor that something may have happened to a VM, or with "" to any."""
        self._report(fleet.HintReceived(vm))

    def _found(self, machine: VmMachine, guest: Guest | None, as_of: float) -> None:
        if guest is None:
            self._report(fleet.GuestFound(machine.vm.uuid, events.GuestUnseen(as_of)))
            return
        # What was seen before the start may belong to an earlier run of the guest.
        started_at = machine.boot.started_at
        is_older = machine.call.is_under_way or (started_at is not None and as_of < started_at)
        is_new = not is_older and self.outside.seen.update(machine.vm, guest)
        feed = self._statuses.feed.feeds["vm"]
        before = feed.number
        seen = events.GuestSeen(guest.state, as_of, guest.up_s, guest.reason)
        self._report(fleet.GuestFound(machine.vm.uuid, seen))
        if is_new and feed.number == before and machine.vm.uuid in self.fleet.machines:
            self._statuses.publish(machine)

    # --- what the fleet wants done ---

    def _perform(self, actions: Sequence[fleet.FleetAction]) -> None:
        for action in actions:
            match action:
                case fleet.PassOn(vm, event):
                    self.vms[vm].handle(event)
                case fleet.Admit(vm, event):
                    with suppress(JitsuError):  # the others have their turn
                        self.vms[vm].handle(event)
                case fleet.AwaitAdmission(vm, Waiter() as waiter, patience_s):
                    self._await_admission(waiter, self.vms[vm], patience_s)
                case fleet.PublishVm(vm):
                    if vm in self.fleet.machines:
                        self._statuses.publish(self.fleet.machines[vm])
                case fleet.LookAt(vm):
                    self.looks.at(vm)
                case fleet.SaveStarted(vm, started):
                    self._files.save(vm, started)  # the start call is made by a task, which comes after this
                case fleet.AddVm(machine):
                    self.vms[machine.vm.uuid] = Vm(machine, self.outside, self._statuses, self._report)
                    self.outside.vm_metrics.moved(machine)
                case fleet.DropVm(machine):
                    self._drop(machine, forget_guest=action.forget_guest)
                case fleet.Warn(event, vm, reason, hint):
                    log.warning(event, vm=vm.name, reason=reason, **({"hint": hint} if hint else {}))

    def _drop(self, machine: VmMachine, *, forget_guest: bool) -> None:
        uuid = machine.vm.uuid
        self.vms.pop(uuid).close()
        self.outside.statistics.removed(machine)
        self.outside.vm_metrics.forget(uuid)
        self.outside.seen.forget(uuid)
        if forget_guest:
            self._world.spawn(self.outside.forget(machine.guest))
        self._statuses.publish(machine, gone=True)


def _limits(settings: Settings) -> fleet.LimitsChanged:
    limits = settings.hypervisor
    return fleet.LimitsChanged(limits.max_booting, limits.max_running, limits.max_memory)
