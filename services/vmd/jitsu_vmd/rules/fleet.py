"""All VMs of one vmd: which of them may start, which are no longer wanted, and which are to be looked at next.

Each VM has a machine of its own (summon.py), which knows nothing of the others. Whatever concerns more than one VM is
decided here. A summon passes the fleet before it reaches its VM: if the host is full, or if the guest of another VM
still has the address, it waits (admission.py). Afterwards the fleet hears that the machine has acted (VmActed). It then
counts again what is in use, notes what the guest was started as, and forgets a VM that is no longer configured once its
guest is gone.

    SummonArrived       refused if the VM cannot run as it is configured; waits if it is not admitted; else PassOn
    tick                one VM that is admitted now, until there is none; then what the others wait for is published
    FleetConfigured     a new VM gets a machine; one that is removed keeps it until its guest has stopped
    LeftoversFound      a guest that nobody configures any longer gets a machine too, and is stopped by it
    OrdersReviewed      passed on to the VMs for which they have changed (orders.py); one that is held or asleep no
                        longer waits for admission
    GuestFound          passed on, after a VM that could not run was checked again: what was missing may be there now
    HintReceived        LookAt; but while a call is under way its machine would not believe what is seen, so later
    CallEnded           LookAt, if the call failed or a hint came during it

An admitted VM counts only once its machine has taken the summon. That is why each tick admits one, and the next tick
is due at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from jitsu_protocol.model.errors import NotFound, Refused, Unavailable
from jitsu_protocol.model.guests import difference
from jitsu_protocol.model.states import AT_REST, VmState
from jitsu_vmd.rules import calendar, events
from jitsu_vmd.rules.admission import Admission, memory, patience_s
from jitsu_vmd.rules.fleet_events import (
    AddVm,
    Admit,
    AllKnown,
    AwaitAdmission,
    CallEnded,
    DrainArrived,
    DropVm,
    FleetAction,
    FleetConfigured,
    FleetEvent,
    GuestFound,
    HintReceived,
    LeftoversFound,
    LimitsChanged,
    LookAt,
    OrdersReviewed,
    PassOn,
    PublishVm,
    SaveStarted,
    SummonArrived,
    SummonRepeated,
    VmActed,
    Warn,
)
from jitsu_vmd.rules.holders import Holders
from jitsu_vmd.rules.summon import VmMachine
from jitsu_vmd.rules.vm.parts import Terms

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.rules.admission import Shortage
    from jitsu_vmd.rules.orders import Orders


class Checks(Protocol):
    """What the hypervisors can say about a VM without being asked over a connection."""

    def check(self, vm: VM) -> None:
        """Raise Refused if a VM cannot run as it is configured."""

    def check_answers(self, vm: VM) -> None:
        """Raise Unavailable if the hypervisor of a VM does not answer."""

    def watches_keys(self, vm: VM) -> bool:
        """Say whether a VM's `wait_for_key` can be watched."""


class PriorKnowledge(Protocol):
    """What is known about a VM before it is added."""

    def started(self, vm: str) -> VM | None:
        """Return what an earlier vmd started its guest as."""

    def starts(self, vm: str) -> int:
        """Return how often it was started."""

    def orders(self, vm: str) -> Orders:
        """Return what operators and its schedule ask for now."""


class Fleet:
    """All VMs of one vmd, by their UUID."""

    def __init__(self, checks: Checks, memory: PriorKnowledge, limits: LimitsChanged) -> None:
        self._checks = checks
        self._memory = memory
        self.machines: dict[str, VmMachine] = {}
        self.refusals: dict[str, Refused] = {}
        """VM -> why it cannot run as it is configured."""
        self.admission = Admission(limits.max_booting, limits.max_running, limits.max_memory, blocked=self._conflict)
        self.is_complete = False
        """All VMs are known, and have been looked at."""
        self.holders = Holders()
        self._hinted: set[str] = set()
        """VMs that a hypervisor reported while a call was under way."""
        self._shortages: dict[str, Shortage] = {}
        """What the waiting VMs wait for, as it was published last."""
        self._admit_at: float | None = None

    def handle(self, event: FleetEvent, now: float) -> list[FleetAction]:
        """Return what to do because of an event; raises what the requester is to be told."""
        match event:
            case VmActed():
                return self._acted(event, now)
            case SummonArrived():
                return self._summoned(event, now)
            case SummonRepeated():
                return self._repeated(event, now)
            case DrainArrived(vm):
                for_room = self.admission.may_evict(self.machine(vm).vm, self.machines)
                return [PassOn(vm, events.DrainRequested(for_room))]
            case GuestFound(vm, seen):
                return [*self._checked_again(vm), PassOn(vm, seen)]
            case HintReceived(vm):
                return self._hint(vm)
            case CallEnded():
                return self._call_ended(event)
            case _:
                return self._changed(event, now)

    def _changed(self, event: FleetEvent, now: float) -> list[FleetAction]:
        match event:
            case FleetConfigured(changes):
                return [
                    action
                    for change in changes
                    for action in (self._put(change.new) if change.new is not None else self._removed(change.old))
                ]
            case LeftoversFound(started):
                return [action for vm in started if vm.uuid not in self.machines for action in self._adopt(vm)]
            case OrdersReviewed():
                return self._order()
            case LimitsChanged():
                self.admission.limit(event.max_booting, event.max_running, event.max_memory)
                self._admit_at = now
                return [warning for machine in self.machines.values() for warning in self._check(machine, machine.vm)]
            case AllKnown():
                self.is_complete = True
        return []

    def deadline(self) -> float | None:
        """Return when a waiting VM may be admitted, or loses its turn."""
        return self._admit_at

    def tick(self, now: float) -> list[FleetAction]:
        """Admit a VM if one may start now; else publish what the waiting VMs wait for."""
        if self._admit_at is None or now < self._admit_at:
            return []
        if (admitted := self.admission.next(self.machines, now)) is not None:
            self._admit_at = now
            return [Admit(*admitted)]
        before, self._shortages = self._shortages, self.admission.waiting()
        self._admit_at = self.admission.deadline()
        changed = {vm: None for vm in [*before, *self._shortages] if before.get(vm) != self._shortages.get(vm)}
        return [PublishVm(vm) for vm in changed if vm in self.machines]

    def machine(self, vm: str) -> VmMachine:
        """Return the machine of a VM; raises NotFound, or Unavailable while it may only not be known yet."""
        if vm in self.machines:
            return self.machines[vm]
        if not self.is_complete:
            raise Unavailable("vmd has just started and does not know its VMs yet", hint="try again in a moment")
        raise NotFound(f"no VM has the uuid {vm[:64]!r}")

    def refusal(self, vm: VM) -> Refused | None:
        """Return with what a VM is refused that cannot run as it is configured, None if it can run."""
        try:
            self.admission.check(vm)
            calendar.check(vm)
            self._checks.check(vm)
        except Refused as refusal:
            return refusal
        return None

    # --- summons ---

    def _summoned(self, arrived: SummonArrived, now: float) -> list[FleetAction]:
        machine, event = self.machine(arrived.vm), arrived.event
        if machine.vm.uuid in self.refusals:
            if (refusal := self.refusal(machine.vm)) is not None:
                raise Unavailable(f"{machine.vm.name}: {refusal}")
            self._check(machine, machine.vm)
        if machine.state is VmState.UNKNOWN and self.is_complete and not event.discard:
            self._checks.check_answers(machine.vm)
        is_forbidden = machine.terms.orders.forbid(event.trigger)
        shortage = None if is_forbidden else self._shortage(machine)
        if shortage is None:
            return [PassOn(machine.vm.uuid, event)]
        if not self.admission.queue(machine.vm.uuid, event, shortage, now):
            raise Unavailable(f"{machine.vm.name}: {shortage.reason}, and too many VMs wait for that")
        self._admit_at = now
        return [AwaitAdmission(arrived.vm, arrived.waiter, patience_s(machine.vm, event))]

    def _repeated(self, repeated: SummonRepeated, now: float) -> list[FleetAction]:
        machine = self.machine(repeated.vm)
        is_forbidden = machine.terms.orders.forbid(repeated.event.trigger)
        shortage = None if is_forbidden else self._shortage(machine)
        if shortage is None or not self.admission.queue(repeated.vm, repeated.event, shortage, now):
            return [PassOn(repeated.vm, repeated.event)]
        self._admit_at = now
        return []

    def _shortage(self, machine: VmMachine) -> Shortage | None:
        return self.admission.shortage(machine.vm, self.machines) if machine.state in AT_REST else None

    def _conflict(self, vm: VM) -> Shortage | None:
        return self.holders.conflict(vm, self.machines)

    # --- the configuration ---

    def _put(self, vm: VM) -> list[FleetAction]:
        if (machine := self.machines.get(vm.uuid)) is None:
            started = self._memory.started(vm.uuid)
            machine = VmMachine(Terms(vm, started, orders=self._memory.orders(vm.uuid)))
            machine.summons.starts = self._memory.starts(vm.uuid)
            return [*self._check(machine, vm), *self._add(machine)]
        warnings = [*_differs(machine, vm), *self._check(machine, vm)]
        return [*warnings, PassOn(vm.uuid, events.Reconfigured(vm)), PublishVm(vm.uuid), LookAt(vm.uuid)]

    def _adopt(self, started: VM) -> list[FleetAction]:
        warnings: list[FleetAction] = []
        if (refusal := self.refusal(started)) is not None:
            warnings.append(Warn("a guest that is no longer configured may run on", started, str(refusal)))
        return [*warnings, *self._add(VmMachine(Terms(started, started, removed=True)))]

    def _add(self, machine: VmMachine) -> list[FleetAction]:
        vm = machine.vm.uuid
        self.machines[vm] = machine
        self.holders.note(vm, machine.terms.started)
        self._count(machine)
        return [AddVm(machine), LookAt(vm)]

    def _removed(self, vm: VM | None) -> list[FleetAction]:
        return [] if vm is None else [PassOn(vm.uuid, events.Removed())]

    def _order(self) -> list[FleetAction]:
        actions: list[FleetAction] = []
        for vm, machine in self.machines.items():
            if machine.terms.orders == (orders := self._memory.orders(vm)):
                continue
            actions.append(PassOn(vm, events.OrdersChanged(orders)))
            event = self.admission.awaiting(vm)
            if event is not None and orders.forbid(event.trigger):
                self.admission.withdraw(vm)
                actions.append(PassOn(vm, event))
        return actions

    def _check(self, machine: VmMachine, vm: VM) -> list[FleetAction]:
        """Check whether a VM can run when it is configured like this."""
        refusal = self.refusal(vm)
        before = self.refusals.pop(vm.uuid, None)
        if refusal is None:
            machine.terms.watches_keys = self._checks.watches_keys(vm)
            return []
        self.refusals[vm.uuid] = refusal
        return [] if str(refusal) == str(before) else [Warn("cannot run as it is configured", vm, str(refusal))]

    def _checked_again(self, vm: str) -> list[FleetAction]:
        machine = self.machine(vm)
        if machine.runs() and vm not in self.refusals:
            return []  # what runs has all that it needs
        return self._check(machine, machine.vm)

    # --- what the machines have done ---

    def _acted(self, acted: VmActed, now: float) -> list[FleetAction]:
        machine, vm = acted.machine, acted.machine.vm.uuid
        if self.machines.get(vm) is not machine:
            return []
        self._count(machine)
        actions = self._note_started(machine, now)
        if acted.published:
            if machine.state is VmState.FAILED:
                actions.append(LookAt(vm))  # it may be paused or suspended, or even run
            if len(self.admission):
                self._admit_at = now
        return actions + self._forgotten_if_removed(machine, now)

    def _count(self, machine: VmMachine) -> None:
        self.admission.tally.note(machine.vm.uuid, machine.state, memory(machine.vm))

    def _note_started(self, machine: VmMachine, now: float) -> list[FleetAction]:
        vm, started = machine.vm.uuid, machine.terms.started
        before = self.holders.started(vm)
        if started is before:
            return []
        self.holders.note(vm, started)
        if before is not None:
            self._admit_at = now  # an address may be free now
        return [] if started == before else [SaveStarted(vm, started)]

    def _forgotten_if_removed(self, machine: VmMachine, now: float) -> list[FleetAction]:
        may_run = machine.state is VmState.UNKNOWN and machine.terms.started is not None
        if not machine.terms.removed or machine.is_busy() or may_run:
            return []
        vm = machine.vm.uuid
        machine.terms.started = None
        actions = self._note_started(machine, now)
        del self.machines[vm]
        self.admission.tally.forget(vm)
        self._hinted.discard(vm)
        return [*actions, DropVm(machine, forget_guest=self.refusals.pop(vm, None) is None)]

    # --- what to look at ---

    def _hint(self, vm: str) -> list[FleetAction]:
        if not vm:
            self._hinted |= {uuid for uuid, machine in self.machines.items() if machine.call.is_under_way}
        elif vm in self.machines and self.machines[vm].call.is_under_way:
            self._hinted.add(vm)
            return []
        return [LookAt(vm)]

    def _call_ended(self, ended: CallEnded) -> list[FleetAction]:
        was_hinted = ended.vm in self._hinted
        self._hinted.discard(ended.vm)
        machine = self.machines.get(ended.vm)
        has_failed = machine is not None and machine.state is VmState.FAILED
        return [LookAt(ended.vm)] if ended.look or was_hinted or has_failed else []


def _differs(machine: VmMachine, configured: VM) -> list[FleetAction]:
    """Return what is logged about a guest that was started otherwise than its VM is configured now."""
    started = machine.terms.started
    if started is None or not (why := difference(started, configured)):
        return []
    if machine.state in (VmState.SUSPENDED, VmState.PAUSED):
        hint = f"jitsu start {configured.name} --discard-saved-state boots it as it is configured now"
        event = "its saved state is not used, because the VM is configured otherwise now"
        return [Warn(event, configured, why, hint)]
    return [Warn("is stopped, because it is configured otherwise", configured, why)]
