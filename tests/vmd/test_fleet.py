"""What concerns more than one VM, decided on virtual time with hypervisors that the test plays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from jitsu_protocol.model.errors import BootFailed, JitsuError, NotFound, Refused, Unavailable
from jitsu_protocol.model.inventory import VmChanged
from jitsu_protocol.model.states import VmState
from jitsu_vmd.rules import admission
from jitsu_vmd.rules.admission import PATIENCE_S, REPLY_S
from jitsu_vmd.rules.events import (
    AnswerSummons,
    DrainRequested,
    GuestSeen,
    GuestState,
    PublishState,
    StartGuest,
    StartReturned,
    StopGuest,
    StopRequested,
    StopReturned,
    SummonAgain,
    SummonRequested,
)
from jitsu_vmd.rules.fleet import Fleet
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
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.rules.events import Action, Event
    from jitsu_vmd.rules.summon import VmMachine
from jitsu_vmd.rules.orders import Orders

ONE, TWO, THREE = (
    make_vm(name, f"127.0.4.{n}", response_delay="0") for n, name in enumerate(("one", "two", "three"), 1)
)
DNS, OPERATOR = SummonRequested("dns"), SummonRequested("operator")


class FleetWorld:
    """What the fleet is given, and what performs its actions: calls return when the test says so."""

    def __init__(self, *vms: VM, booting: int = 0, running: int = 0, memory: int = 0) -> None:
        self.refusals: dict[str, str] = {}
        """By the name of a VM."""
        self.silent = ""
        self.left: dict[str, VM] = {}
        self.given: dict[str, Orders] = {}
        self.now = 0.0
        self.done: list[FleetAction] = []
        """What the fleet wanted done, without what was passed on."""
        self.calls: dict[str, StartGuest | StopGuest] = {}
        """By the name of a VM: the calls under way."""
        self.answers: dict[str, list[JitsuError | None]] = {}
        self.fleet = Fleet(self, self, LimitsChanged(booting, running, memory))
        self.configure(*vms)
        for vm in vms:
            self.see(vm, GuestState.OFF)
        self.handle(AllKnown())
        self.done.clear()

    # --- what the fleet asks ---

    def check(self, vm: VM) -> None:
        if vm.name in self.refusals:
            raise Refused(self.refusals[vm.name])

    def check_answers(self, vm: VM) -> None:
        if self.silent:
            raise Unavailable(f"{vm.name}: {self.silent}")

    def watches_keys(self, vm: VM) -> bool:
        return vm.wait_for_key != ""

    def started(self, vm: str) -> VM | None:
        return self.left.get(vm)

    def starts(self, vm: str) -> int:
        return 41 if vm == ONE.uuid else 0

    def orders(self, vm: str) -> Orders:
        return self.given.get(vm, Orders())

    # --- what performs its actions ---

    def handle(self, event: FleetEvent) -> None:
        self._perform(self.fleet.handle(event, self.now))

    def settle(self, now: float | None = None) -> None:
        """Let the fleet look at the clock until it wants to be called later."""
        self.now = self.now if now is None else now
        while (due := self.fleet.deadline()) is not None and due <= self.now:
            self._perform(self.fleet.tick(self.now))

    def _perform(self, actions: list[FleetAction]) -> None:
        for action in actions:
            match action:
                case PassOn(vm, event) | Admit(vm, event):
                    self.pass_on(self.fleet.machines[vm], event)
                case _:
                    self.done.append(action)

    def pass_on(self, machine: VmMachine, event: Event) -> None:
        self._performed(machine, machine.handle(event, self.now))

    def _performed(self, machine: VmMachine, actions: list[Action]) -> None:
        name = machine.vm.name
        for action in actions:
            match action:
                case StartGuest() | StopGuest():
                    self.calls[name] = action
                case AnswerSummons(error):
                    self.answers.setdefault(name, []).append(error)
        self.handle(VmActed(machine, published=any(isinstance(each, PublishState) for each in actions)))
        for action in actions:
            if isinstance(action, SummonAgain):
                self.handle(SummonRepeated(machine.vm.uuid, action.event))

    # --- what the tests say ---

    def machine(self, vm: VM) -> VmMachine:
        return self.fleet.machines[vm.uuid]

    def state(self, vm: VM) -> VmState:
        return self.machine(vm).state

    def configure(self, *vms: VM) -> None:
        before = {uuid: machine.vm for uuid, machine in self.fleet.machines.items()}
        new = {vm.uuid: vm for vm in vms}
        changes = [VmChanged(before.get(uuid), new.get(uuid)) for uuid in {**before, **new}]
        self.handle(FleetConfigured([change for change in changes if change.old != change.new]))

    def see(self, vm: VM, state: GuestState) -> None:
        self.handle(GuestFound(vm.uuid, GuestSeen(state, self.now)))

    def summon(self, vm: VM, event: SummonRequested = DNS) -> None:
        self.handle(SummonArrived(vm.uuid, event, waiter=vm.name))

    def returns(self, vm: VM, error: str = "") -> None:
        """Let the call under way for a VM return."""
        call = self.calls.pop(vm.name)
        kind = StartReturned if isinstance(call, StartGuest) else StopReturned
        self.pass_on(self.machine(vm), kind(call.call, BootFailed(error) if error else None))

    def run(self, vm: VM) -> None:
        """Have a VM ready."""
        self.summon(vm, OPERATOR)
        self.returns(vm)
        assert self.state(vm) is VmState.READY
        self.done.clear()

    def wanted(self, kind: type[Any]) -> list[Any]:
        return [action for action in self.done if isinstance(action, kind)]


# --- summons ---


def test_a_summon_starts_its_vm_at_once_if_nothing_is_short() -> None:
    world = FleetWorld(ONE)
    world.summon(ONE)
    assert world.state(ONE) is VmState.STARTING
    assert world.wanted(AwaitAdmission) == []
    assert world.wanted(SaveStarted) == [SaveStarted(ONE.uuid, ONE)]


def test_an_unknown_vm_may_only_not_be_known_yet() -> None:
    world = FleetWorld()
    with pytest.raises(NotFound, match="no VM has the uuid 'nobody'"):
        world.handle(DrainArrived("nobody"))
    world.fleet.is_complete = False
    with pytest.raises(Unavailable, match="vmd has just started"):
        world.fleet.machine("nobody")


def test_a_vm_that_cannot_run_is_refused_until_what_was_missing_is_there() -> None:
    world = FleetWorld()
    world.refusals["one"] = "/a/kernel is not there"
    world.configure(ONE)
    assert world.wanted(Warn) == [Warn("cannot run as it is configured", ONE, "/a/kernel is not there")]
    with pytest.raises(Unavailable, match="one: /a/kernel is not there"):
        world.summon(ONE)
    del world.refusals["one"]
    world.see(ONE, GuestState.OFF)
    world.summon(ONE)
    assert world.state(ONE) is VmState.STARTING


def test_a_refused_vm_is_checked_again_by_its_next_summon() -> None:
    world = FleetWorld(ONE)
    world.refusals["one"] = "no disk"
    world.see(ONE, GuestState.OFF)
    world.refusals.clear()
    world.summon(ONE)
    assert world.state(ONE) is VmState.STARTING
    assert world.fleet.refusals == {}


def test_a_vm_of_a_silent_hypervisor_is_refused_while_nothing_is_known_about_it() -> None:
    world = FleetWorld()
    world.configure(ONE)
    world.silent = "its hypervisor does not answer"
    with pytest.raises(Unavailable, match="does not answer"):
        world.summon(ONE)
    world.see(ONE, GuestState.OFF)
    world.summon(ONE)
    assert world.state(ONE) is VmState.STARTING


# --- admission ---


def test_g10_a_vm_that_is_not_admitted_starts_when_another_has_booted() -> None:
    world = FleetWorld(ONE, TWO, booting=1)
    world.summon(ONE)
    world.summon(TWO)
    assert world.wanted(AwaitAdmission)[0].waiter == "two"
    world.settle()
    assert world.state(TWO) is VmState.OFF
    assert world.wanted(PublishVm) == [PublishVm(TWO.uuid)], "what it waits for is published"
    world.returns(ONE)
    world.settle()
    assert world.state(TWO) is VmState.STARTING
    assert world.wanted(PublishVm) == [PublishVm(TWO.uuid)] * 2, "and that it waits no longer"


def test_several_vms_are_admitted_one_after_the_other_and_never_too_many() -> None:
    world = FleetWorld(ONE, TWO, THREE, running=1)
    for vm in (ONE, TWO, THREE):
        world.summon(vm)
    world.settle()
    world.handle(LimitsChanged(0, 2, 0))
    world.settle()
    assert [world.state(vm) for vm in (ONE, TWO, THREE)] == [VmState.STARTING, VmState.STARTING, VmState.OFF]


def test_a_query_is_told_in_time_and_an_operator_has_more_patience() -> None:
    world = FleetWorld(ONE, TWO, running=1)
    world.run(ONE)
    world.summon(TWO, SummonRequested("dns", waited_s=0.5))
    world.summon(TWO, OPERATOR)
    patience = [action.patience_s for action in world.wanted(AwaitAdmission)]
    assert patience == [pytest.approx(TWO.max_wait - 0.5 - REPLY_S), PATIENCE_S]


def test_a_vm_that_nobody_asks_for_again_loses_its_turn() -> None:
    world = FleetWorld(ONE, TWO, running=1)
    world.run(ONE)
    world.summon(TWO)
    world.settle()
    assert world.fleet.deadline() == PATIENCE_S
    world.settle(PATIENCE_S)
    assert (len(world.fleet.admission), world.fleet.deadline()) == (0, None)
    assert world.fleet.tick(PATIENCE_S + 1) == []


def test_g9_a_summon_is_refused_if_too_many_vms_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_QUEUED", 1)
    world = FleetWorld(ONE, TWO, THREE, running=1)
    world.run(ONE)
    world.summon(TWO)
    with pytest.raises(Unavailable, match=r"three: 1 VMs are running .* and too many VMs wait for that"):
        world.summon(THREE)


def test_a_vm_may_drain_sooner_if_another_waits_for_what_it_has() -> None:
    one = make_vm("one", "127.0.4.1", response_delay="0", evict="true", idle_timeout="100", ttl="1")
    world = FleetWorld(one, TWO, running=1)
    world.run(one)
    assert world.fleet.handle(DrainArrived(one.uuid), 5.0) == [PassOn(one.uuid, DrainRequested(for_room=False))]
    world.summon(TWO)
    assert world.fleet.handle(DrainArrived(one.uuid), 5.0) == [PassOn(one.uuid, DrainRequested(for_room=True))]


def test_a_summon_that_came_while_its_vm_stopped_waits_for_admission_like_any_other() -> None:
    world = FleetWorld(ONE, TWO, booting=1)
    world.run(ONE)
    world.pass_on(world.machine(ONE), StopRequested())
    world.summon(ONE)
    world.summon(TWO)
    world.returns(ONE)
    assert world.state(ONE) is VmState.OFF
    world.returns(TWO)
    world.settle()
    assert world.state(ONE) is VmState.STARTING


def test_one_that_came_while_its_vm_stopped_starts_it_at_once_if_nothing_is_short() -> None:
    world = FleetWorld(ONE)
    world.run(ONE)
    world.pass_on(world.machine(ONE), StopRequested())
    world.summon(ONE)
    world.returns(ONE)
    assert world.state(ONE) is VmState.STARTING


# --- addresses ---


def test_no_vm_starts_while_the_guest_of_another_still_has_its_address() -> None:
    new = make_vm("new", "127.0.4.1", response_delay="0")
    world = FleetWorld(ONE)
    world.run(ONE)
    world.configure(new)
    world.see(new, GuestState.OFF)
    world.summon(new)
    world.settle()
    shortage = world.fleet.admission.awaited(new.uuid)
    assert shortage is not None
    assert shortage.reason == "one, no longer configured, still runs with the address 127.0.4.1"
    world.returns(ONE)
    assert ONE.uuid not in world.fleet.machines
    assert world.wanted(SaveStarted) == [SaveStarted(ONE.uuid, None)]
    world.settle()
    assert world.state(new) is VmState.STARTING


@pytest.mark.parametrize("state", [GuestState.SUSPENDED, GuestState.PAUSED])
def test_a_guest_that_is_saved_keeps_nobody_from_its_address(state: GuestState) -> None:
    other = make_vm("other", "127.0.4.1", response_delay="0")
    world = FleetWorld(ONE, other)
    world.run(ONE)
    world.now = 1.0
    world.see(ONE, state)
    world.summon(other)
    assert world.state(other) is VmState.STARTING


def test_a_guest_that_is_not_known_any_more_keeps_nobody_from_its_address() -> None:
    world = FleetWorld(ONE)
    world.run(ONE)
    conflict = world.fleet.admission.blocked
    same = make_vm("same", "127.0.4.1")
    assert conflict(same) is not None
    assert conflict(ONE) is None
    assert conflict(TWO) is None
    del world.fleet.machines[ONE.uuid]
    assert conflict(same) is None


# --- the configuration ---


def test_a_new_vm_is_looked_at_and_continues_its_count_of_starts() -> None:
    world = FleetWorld()
    world.configure(ONE)
    assert world.done == [AddVm(world.machine(ONE)), LookAt(ONE.uuid)]
    assert world.machine(ONE).summons.starts == 41


def test_a_change_is_passed_on_published_and_looked_at() -> None:
    world = FleetWorld(ONE)
    changed = make_vm("one", "127.0.4.1", ttl="5", uuid=ONE.uuid)
    world.configure(changed)
    assert world.machine(ONE).vm == changed
    assert world.done == [PublishVm(ONE.uuid), LookAt(ONE.uuid)]


@pytest.mark.parametrize(
    ("state", "said", "has_hint"),
    [
        (GuestState.RUNNING, "is stopped, because it is configured otherwise", False),
        (GuestState.SUSPENDED, "its saved state is not used, because the VM is configured otherwise now", True),
    ],
)
def test_it_is_said_what_becomes_of_a_guest_that_was_started_otherwise(
    state: GuestState, said: str, has_hint: bool
) -> None:
    world = FleetWorld(ONE)
    world.run(ONE)
    world.now = 1.0
    world.see(ONE, state)
    world.done.clear()
    world.configure(make_vm("one", "127.0.4.9", response_delay="0", uuid=ONE.uuid))
    (warning,) = world.wanted(Warn)
    assert (warning.event, bool(warning.hint)) == (said, has_hint)
    assert isinstance(world.calls.get("one"), StopGuest) is not has_hint


def test_a_vm_that_is_removed_is_forgotten_once_its_guest_has_stopped() -> None:
    world = FleetWorld(ONE)
    world.run(ONE)
    machine = world.machine(ONE)
    world.configure()
    assert world.wanted(DropVm) == []
    world.returns(ONE)
    assert world.wanted(DropVm) == [DropVm(machine, forget_guest=True)]
    assert world.fleet.machines == {}
    world.handle(VmActed(machine, published=True))
    assert world.fleet.admission.tally.running == 0, "late reports about it no longer count"


def test_what_a_vm_that_never_could_run_has_left_is_nothing() -> None:
    world = FleetWorld()
    world.refusals["one"] = "no"
    world.configure(ONE)
    machine = world.machine(ONE)
    world.configure()
    assert world.wanted(DropVm) == [DropVm(machine, forget_guest=False)]


def test_g7_a_guest_that_nobody_configures_any_longer_is_adopted_and_stopped() -> None:
    world = FleetWorld(TWO)
    world.refusals["one"] = "no such hypervisor"
    world.handle(LeftoversFound([ONE, TWO]))
    assert world.wanted(Warn) == [Warn("a guest that is no longer configured may run on", ONE, "no such hypervisor")]
    assert world.wanted(DropVm) == [], "it may run"
    world.refusals.clear()
    world.see(ONE, GuestState.RUNNING)
    world.returns(ONE)
    assert [action.machine.vm for action in world.wanted(DropVm)] == [ONE]


def test_g7_a_guest_that_an_earlier_vmd_started_otherwise_is_stopped_as_that() -> None:
    world = FleetWorld()
    old = make_vm("one", "127.0.4.9", response_delay="0", uuid=ONE.uuid)
    world.left[ONE.uuid] = old
    world.configure(ONE)
    world.see(ONE, GuestState.RUNNING)
    assert isinstance(world.calls["one"], StopGuest)
    assert world.machine(ONE).guest == old


def test_a_change_of_nothing_is_nothing() -> None:
    world = FleetWorld()
    world.handle(FleetConfigured([VmChanged(None, None)]))
    assert world.done == []


def test_limits_that_no_vm_of_that_size_can_meet_refuse_it() -> None:
    world = FleetWorld(ONE)
    world.handle(LimitsChanged(0, 0, 1))
    (warning,) = world.wanted(Warn)
    assert warning.reason.startswith("memory: ")
    world.handle(LimitsChanged(0, 0, 0))
    world.summon(ONE)
    assert world.state(ONE) is VmState.STARTING


# --- holds ---


def test_a_hold_is_passed_on_and_who_waits_for_admission_is_refused() -> None:
    world = FleetWorld(ONE, TWO, running=1)
    world.run(ONE)
    world.summon(TWO)
    world.given[TWO.uuid] = Orders(hold="held by operator:anna")
    world.handle(OrdersReviewed())
    (error,) = world.answers["two"]
    assert isinstance(error, Refused)
    assert len(world.fleet.admission) == 0
    assert world.machine(ONE).terms.orders.hold == ""
    world.summon(TWO)
    assert world.wanted(AwaitAdmission)[1:] == [], "a held VM does not wait"


def test_a_vm_that_is_added_while_it_is_held_is_held() -> None:
    world = FleetWorld()
    world.given[ONE.uuid] = Orders(hold="held")
    world.configure(ONE)
    assert world.machine(ONE).terms.orders.hold == "held"


# --- looks ---


def test_a_hint_during_a_call_is_followed_when_the_call_has_ended() -> None:
    world = FleetWorld(ONE, TWO)
    world.summon(ONE)
    world.done.clear()
    world.handle(HintReceived(ONE.uuid))
    world.handle(HintReceived(TWO.uuid))
    assert world.done == [LookAt(TWO.uuid)]
    world.returns(ONE)
    world.handle(CallEnded(ONE.uuid, look=False))
    world.handle(CallEnded(ONE.uuid, look=False))
    assert world.wanted(LookAt) == [LookAt(TWO.uuid), LookAt(ONE.uuid)]


def test_a_hint_about_all_vms_counts_for_one_with_a_call_when_that_has_ended() -> None:
    world = FleetWorld(ONE, TWO)
    world.summon(ONE)
    world.done.clear()
    world.handle(HintReceived(""))
    world.handle(CallEnded(TWO.uuid, look=False))
    world.handle(CallEnded(ONE.uuid, look=False))
    assert world.done == [LookAt(""), LookAt(ONE.uuid)]


def test_what_a_failed_call_has_left_is_looked_at() -> None:
    world = FleetWorld(ONE)
    world.summon(ONE)
    world.done.clear()
    world.returns(ONE, "no memory")
    world.handle(CallEnded(ONE.uuid, look=False))
    world.handle(CallEnded("gone", look=True))
    assert world.wanted(LookAt) == [LookAt(ONE.uuid), LookAt(ONE.uuid), LookAt("gone")]


def test_what_runs_has_all_that_it_needs_and_is_not_checked_again() -> None:
    world = FleetWorld(ONE)
    world.run(ONE)
    world.refusals["one"] = "its kernel was deleted"
    world.now = 1.0
    world.see(ONE, GuestState.RUNNING)
    assert world.fleet.refusals == {}
    world.see(ONE, GuestState.OFF)
    world.see(ONE, GuestState.OFF)
    assert {vm: str(refusal) for vm, refusal in world.fleet.refusals.items()} == {ONE.uuid: "its kernel was deleted"}
    assert len(world.wanted(Warn)) == 1
