"""The machine of one VM: every state with every event, and the stories that matter."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitsu_protocol.machine import Tick
from jitsu_protocol.model.errors import BackingOff, BootFailed, Refused, Unavailable
from jitsu_protocol.model.lifetimes import REPLY_MAX_AGE_S
from jitsu_protocol.model.states import VmState, may_follow
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_vmd.rules.backoff import FIRST_S, STABLE_S
from jitsu_vmd.rules.due import DRAIN_LIMIT_S, STOP_LIMIT_S
from jitsu_vmd.rules.events import (
    Action,
    AnswerSummons,
    ArmReturned,
    ArmSynjitsu,
    DisarmSynjitsu,
    DrainCancelled,
    DrainRequested,
    Event,
    GuestHandedOver,
    GuestSeen,
    GuestState,
    GuestUnseen,
    MaskSignalled,
    Reconfigured,
    RecordStart,
    StartGuest,
    StartReturned,
    StopApproved,
    StopGuest,
    StopRequested,
    StopReturned,
    SummonAgain,
    SummonRequested,
    WatchGuest,
)
from jitsu_vmd.rules.summon import TRANSITIONS, VmMachine
from jitsu_vmd.rules.vm.parts import Terms
from tests.support.examples import examples
from tests.support.vms import make_vm

DNS = SummonRequested("dns")


def off(**keys: str) -> VmMachine:
    machine = VmMachine(Terms(make_vm(**({"response_delay": "0.5"} | keys))))
    machine.handle(GuestSeen(GuestState.OFF, 0.0), 0.0)
    assert machine.state is VmState.OFF
    return machine


def only(kind: type[Any], actions: list[Action]) -> Any:
    found = [action for action in actions if isinstance(action, kind)]
    assert len(found) == 1, actions
    return found[0]


def none_of(kind: type[Any], actions: list[Action]) -> bool:
    return not any(isinstance(action, kind) for action in actions)


def booting(now: float = 1.0, **keys: str) -> VmMachine:
    machine = off(**keys)
    call = only(StartGuest, machine.handle(DNS, now)).call
    machine.handle(StartReturned(call), now)
    return machine


def ready(now: float = 1.0, **keys: str) -> VmMachine:
    machine = booting(now - 0.5, **keys)
    machine.tick(now)
    assert machine.state is VmState.READY
    return machine


def draining(now: float = 200.0, **keys: str) -> VmMachine:
    machine = ready(1.0, **keys)
    machine.handle(DrainRequested(), now)
    assert machine.state is VmState.DRAINING
    return machine


def test_every_state_has_a_row_that_knows_every_event() -> None:
    events = set(Event.__args__)
    assert {(state, event) for state, event in TRANSITIONS if event is not Tick} == {
        (state, event) for state in VmState for event in events
    }


def test_a_summon_starts_waits_for_the_delay_and_answers() -> None:
    machine = off()
    actions = machine.handle(SummonRequested("dns", waited_s=0.25), 1.0)
    start = only(StartGuest, actions)
    assert (machine.state, start.discard) == (VmState.STARTING, False)
    actions = machine.handle(StartReturned(start.call), 1.1)
    only(RecordStart, actions)
    assert (machine.state, machine.deadline()) == (VmState.BOOTING, 1.6)
    assert machine.tick(1.5) == []
    assert only(AnswerSummons, machine.tick(1.6)).error is None
    assert (machine.state, machine.summons.starts) == (VmState.READY, 1)
    (timeline,) = machine.summons.finished
    assert [name for name, _ in timeline.stages] == ["query", "summon", "start call", "start returned", "ready"]
    assert timeline.stages[0][1] == 0.75


def test_g1_whoever_asks_meanwhile_joins() -> None:
    machine = off()
    call = only(StartGuest, machine.handle(DNS, 1.0)).call
    assert machine.handle(DNS, 1.0) == []
    machine.handle(StartReturned(call), 1.1)
    assert machine.handle(DNS, 1.2) == []
    machine.tick(1.6)
    assert machine.summons.finished[0].joined == 2


def test_a_port_is_waited_for_and_the_delay_counts_from_then() -> None:
    machine = off(wait_for_port="80")
    call = only(StartGuest, machine.handle(DNS, 1.0)).call
    watch = only(WatchGuest, machine.handle(StartReturned(call), 1.0))
    assert machine.tick(2.0) == []
    machine.handle(MaskSignalled(watch.call), 3.0)
    assert machine.deadline() == 3.5
    machine.tick(3.5)
    assert machine.state is VmState.READY


def test_a_guest_that_was_seen_within_its_limit_has_not_failed_though_clients_wait_longer() -> None:
    machine = booting(wait_for_port="80", boot_limit="3")
    watch = machine.call.number
    machine.handle(MaskSignalled(watch), 3.9)
    machine.tick(4.0)
    assert (machine.state, machine.deadline()) == (VmState.BOOTING, 4.4)
    machine.tick(4.4)
    assert machine.state is VmState.READY


def test_a_ready_vm_is_answered_at_once() -> None:
    assert only(AnswerSummons, ready().handle(DNS, 2.0)).error is None


def test_a_vm_that_was_up_and_is_lost_from_sight_is_unknown_until_it_is_seen_again() -> None:
    for machine in (ready(), draining()):
        assert machine.handle(GuestUnseen(0.0), 300.0) == [], "that was asked before the last change"
        machine.handle(GuestUnseen(300.0), 300.0)
        assert str(machine.state) == "unknown"
        assert machine.addresses(), "no other VM may start at its address"
        assert none_of(StartGuest, machine.handle(DNS, 301.0)), "it is not started a second time"
        machine.handle(GuestSeen(GuestState.RUNNING, 302.0), 302.0)
        machine.tick(303.0)
        assert machine.state is VmState.READY
    for machine in (off(), booting()):
        state = machine.state
        machine.handle(GuestUnseen(300.0), 300.0)
        assert machine.state is state


@pytest.mark.parametrize("armed", [True, False])
def test_synjitsu_is_armed_before_the_start_and_answers_once_that_is_accepted(armed: bool) -> None:
    machine = off(use_synjitsu="true", answer="started")
    actions = machine.handle(DNS, 1.0)
    assert none_of(StartGuest, actions)
    start = only(StartGuest, machine.handle(ArmReturned(only(ArmSynjitsu, actions).call, armed), 1.0))
    actions = machine.handle(StartReturned(start.call), 1.0)
    assert none_of(AnswerSummons, actions) is not armed
    if armed:
        assert only(AnswerSummons, actions).armed
        assert only(AnswerSummons, machine.handle(DNS, 1.1)).armed
    actions = machine.tick(1.5)
    assert none_of(DisarmSynjitsu, actions)
    assert (machine.state is VmState.BOOTING) is armed, "it is ready when Synjitsu has handed over"
    if armed:
        assert only(DisarmSynjitsu, machine.handle(GuestHandedOver(), 2.0)).outcome == "ready"
    assert machine.state is VmState.READY


def test_queries_are_answered_when_synjitsu_is_armed_while_the_start_call_goes_on() -> None:
    machine = off(use_synjitsu="true")
    arm = only(ArmSynjitsu, machine.handle(DNS, 1.0))
    actions = machine.handle(ArmReturned(arm.call, True), 1.002)
    assert only(AnswerSummons, actions) == AnswerSummons(None, armed=True, early=True)
    start = only(StartGuest, actions)
    assert only(AnswerSummons, machine.handle(DNS, 1.1)).early, "so is a query that joins"
    assert only(AnswerSummons, machine.handle(StartReturned(start.call), 1.6)) == AnswerSummons(None, armed=True)
    assert machine.state is VmState.BOOTING


def test_g2_a_start_that_fails_after_an_early_answer_turns_clients_away_and_is_the_next_answer() -> None:
    machine = off(use_synjitsu="true")
    arm = only(ArmSynjitsu, machine.handle(DNS, 1.0))
    start = only(StartGuest, machine.handle(ArmReturned(arm.call, True), 1.002))
    actions = machine.handle(StartReturned(start.call, BootFailed("no memory")), 1.6)
    assert only(DisarmSynjitsu, actions).outcome == "failed"
    with pytest.raises(BackingOff, match="no memory"):
        raise only(AnswerSummons, machine.handle(DNS, 1.7)).error


def test_a_synjitsu_that_is_not_armed_lets_nobody_be_answered_early() -> None:
    machine = off(use_synjitsu="true")
    arm = only(ArmSynjitsu, machine.handle(DNS, 1.0))
    assert none_of(AnswerSummons, machine.handle(ArmReturned(arm.call, False), 1.25))


def test_a_guest_that_is_there_before_its_start_call_returns_is_ready_when_it_does() -> None:
    machine = off(use_synjitsu="true")
    arm = only(ArmSynjitsu, machine.handle(DNS, 1.0))
    start = only(StartGuest, machine.handle(ArmReturned(arm.call, True), 1.0))
    assert machine.handle(GuestHandedOver(), 1.1) == []
    only(AnswerSummons, machine.handle(StartReturned(start.call), 1.2))
    assert machine.state is VmState.READY
    (log,) = machine.summons.finished
    assert log.stages[-3:] == [("handed over", 1.1), ("start returned", 1.2), ("ready", 1.2)]


def test_a_synjitsu_that_is_gone_while_a_vm_boots_leaves_it_to_the_delay() -> None:
    machine = off(use_synjitsu="true")
    arm = only(ArmSynjitsu, machine.handle(DNS, 1.0))
    start = only(StartGuest, machine.handle(ArmReturned(arm.call, True), 1.0))
    watch = only(WatchGuest, machine.handle(StartReturned(start.call), 1.0))
    machine.handle(MaskSignalled(watch.call), 3.0)
    machine.tick(9.0)
    assert machine.state is VmState.READY


def test_a_start_that_fails_tells_everybody_and_backs_off_longer_each_time() -> None:
    machine, now, waits = off(), 1.0, []
    for _ in range(4):
        call = only(StartGuest, machine.handle(DNS, now)).call
        error = only(AnswerSummons, machine.handle(StartReturned(call, BootFailed("no memory")), now)).error
        assert isinstance(error, BootFailed)
        assert "no memory" in str(error)
        refused = only(AnswerSummons, machine.handle(DNS, now)).error
        assert isinstance(refused, BackingOff)
        assert refused.retry_after is not None
        waits.append(refused.retry_after)
        now += refused.retry_after
    assert waits == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S, 8 * FIRST_S]


def test_an_operator_need_not_wait_for_the_back_off() -> None:
    machine = off()
    call = only(StartGuest, machine.handle(DNS, 1.0)).call
    machine.handle(StartReturned(call, BootFailed("no")), 1.0)
    only(StartGuest, machine.handle(SummonRequested("operator"), 1.0))


def test_a_guest_that_dies_while_it_boots_is_a_failed_boot() -> None:
    machine = booting(wait_for_port="80")
    actions = machine.handle(GuestSeen(GuestState.CRASHED, as_of=1.5, reason="panic"), 1.6)
    assert "panic" in str(only(AnswerSummons, actions).error)
    assert machine.state is VmState.FAILED


def test_a_boot_that_fails_says_what_synjitsu_has_seen_of_the_guest() -> None:
    machine = booting(wait_for_port="80", boot_limit="3")
    machine.boot.note = "the guest announces 10.0.0.7, configured is 10.0.0.9"
    machine.tick(4.0)
    assert machine.error == "not ready 3 s after its start: the guest announces 10.0.0.7, configured is 10.0.0.9"


def test_a_boot_that_outlasts_its_limit_is_destroyed_and_backs_off() -> None:
    machine = booting(wait_for_port="80", boot_limit="3")
    assert machine.deadline() == 4.0
    actions = machine.tick(4.0)
    assert isinstance(only(AnswerSummons, actions).error, BootFailed)
    stop = only(StopGuest, actions)
    assert stop.mode is StopMode.DESTROY
    assert isinstance(only(AnswerSummons, machine.handle(SummonRequested("operator"), 9.0)).error, Unavailable)
    machine.handle(StopReturned(stop.call), 9.0)
    only(StartGuest, machine.handle(DNS, 9.0))


def test_a_look_from_before_the_destroy_call_returned_does_not_make_a_failed_boot_ready() -> None:
    machine = booting(boot_limit="3", wait_for_port="80")
    stop = only(StopGuest, machine.tick(4.0))
    machine.handle(StopReturned(stop.call), 4.02)
    machine.handle(GuestSeen(GuestState.RUNNING, as_of=4.01, up_s=3.0), 4.03)
    assert machine.state is VmState.FAILED
    assert machine.error == "not ready 3 s after its start"


def test_a_start_call_that_hangs_fails_and_is_not_made_twice() -> None:
    machine = off(boot_limit="3")
    call = only(StartGuest, machine.handle(DNS, 1.0)).call
    assert isinstance(only(AnswerSummons, machine.tick(4.0)).error, BootFailed)
    assert isinstance(only(AnswerSummons, machine.handle(DNS, 60.0)).error, Unavailable)
    machine.handle(StartReturned(call), 61.0)  # it did start after all
    machine.handle(GuestSeen(GuestState.RUNNING, as_of=61.0, up_s=1.0), 61.0)
    assert (machine.state, machine.summons.starts) == (VmState.READY, 0)


def test_a_query_during_drain_saves_the_vm() -> None:
    machine = draining()
    drain = machine.drains.current
    assert only(AnswerSummons, machine.handle(DNS, 200.1)).error is None
    assert machine.state is VmState.READY
    with pytest.raises(Refused, match="that drain is over"):
        machine.handle(StopApproved(drain), 200.2)


def test_an_approved_drain_stops_as_the_mode_says() -> None:
    for mode, after in (("destroy", VmState.OFF), ("shutdown", VmState.OFF), ("suspend", VmState.SUSPENDED)):
        machine = draining(stop_mode=mode)
        stop = only(StopGuest, machine.handle(StopApproved(machine.drains.current), 201.0))
        assert stop.mode == mode
        machine.handle(StopReturned(stop.call), 202.0)
        assert machine.state is after
    only(StartGuest, machine.handle(DNS, 203.0))


def test_a_drain_is_refused_while_the_vm_is_in_use_by_vmds_own_account() -> None:
    machine = ready(ttl="10")
    with pytest.raises(Refused, match="not idle"):
        machine.handle(DrainRequested(), 20.0)
    machine.handle(DrainRequested(), 22.0)
    assert machine.state is VmState.DRAINING


@pytest.mark.parametrize("ttl", [30, None], ids=["told", "not told, by protocol 1.1"])
def test_g3_a_drain_is_refused_while_an_answer_is_within_the_ttl_that_it_had(ttl: int | None) -> None:
    machine = ready(ttl="30")
    machine.handle(SummonRequested("dns", ttl=ttl), 100.0)
    machine.handle(Reconfigured(make_vm(ttl="1")), 100.1)
    with pytest.raises(Refused, match=r"an answer that was given for it is valid for 0\.5 s more"):
        machine.handle(DrainRequested(), 129.5 + REPLY_MAX_AGE_S)
    machine.handle(DrainRequested(), 130.0 + REPLY_MAX_AGE_S)
    assert machine.state is VmState.DRAINING


def test_g3_the_ttl_of_an_answer_counts_from_when_the_vm_is_ready() -> None:
    machine = off(ttl="30", response_delay="5")
    call = only(StartGuest, machine.handle(SummonRequested("dns", ttl=30), 1.0)).call
    machine.handle(StartReturned(call), 2.0)
    machine.tick(7.0)
    assert machine.state is VmState.READY
    machine.handle(Reconfigured(make_vm(ttl="1")), 8.0)
    with pytest.raises(Refused):
        machine.handle(DrainRequested(), 36.9 + REPLY_MAX_AGE_S)
    machine.handle(DrainRequested(), 37.0 + REPLY_MAX_AGE_S)


def test_a_drain_asked_for_twice_is_one_and_an_old_one_cannot_be_cancelled() -> None:
    machine = draining()
    drain = machine.drains.current
    machine.handle(DrainRequested(), 200.5)
    assert machine.drains.current == drain
    machine.handle(DrainCancelled("another"), 200.5)
    assert machine.drains.current == drain
    machine.handle(DrainCancelled(drain), 200.5)
    assert machine.state is VmState.READY


def test_a_drain_whose_reaper_died_is_taken_back() -> None:
    machine = draining(200.0)
    machine.tick(200.0 + DRAIN_LIMIT_S)
    assert machine.state is VmState.READY


def test_a_summon_while_stopping_starts_again_afterwards() -> None:
    machine = draining()
    stop = only(StopGuest, machine.handle(StopApproved(machine.drains.current), 201.0))
    assert machine.handle(DNS, 201.1) == []
    again = only(SummonAgain, machine.handle(StopReturned(stop.call), 201.2))
    assert machine.state is VmState.OFF, "whether there is room for it now is for others to say"
    only(StartGuest, machine.handle(again.event, 201.2))


def test_a_stop_that_fails_leaves_the_vm_in_service() -> None:
    machine = draining()
    stop = only(StopGuest, machine.handle(StopApproved(machine.drains.current), 201.0))
    machine.handle(StopReturned(stop.call, BootFailed("busy")), 202.0)
    assert (machine.state, machine.error) == (VmState.READY, "could not be stopped: busy")


def test_a_stop_that_hangs_is_given_up() -> None:
    machine = draining()
    machine.handle(StopApproved(machine.drains.current), 201.0)
    machine.tick(201.0 + STOP_LIMIT_S)
    assert machine.state is VmState.FAILED
    assert isinstance(only(AnswerSummons, machine.handle(SummonRequested("operator"), 500.0)).error, Unavailable)


def test_an_operators_stop_tells_those_who_wait() -> None:
    machine = booting()
    actions = machine.handle(StopRequested(), 1.2)
    assert "stopped by an operator" in str(only(AnswerSummons, actions).error)
    only(StopGuest, actions)


def test_what_runs_already_is_adopted_and_not_started() -> None:
    machine = VmMachine(Terms(make_vm()))
    machine.handle(GuestSeen(GuestState.RUNNING, as_of=5.0, up_s=100.0), 5.0)
    assert (machine.state, machine.summons.starts, machine.usage.used_at, machine.boot.started_at) == (
        VmState.READY,
        0,
        5.0,
        -95.0,
    )
    booting_guest = VmMachine(Terms(make_vm(response_delay="0.5")))
    booting_guest.handle(GuestSeen(GuestState.RUNNING, as_of=5.0, up_s=0.2), 5.0)
    assert (booting_guest.state, booting_guest.deadline()) == (VmState.BOOTING, 5.3)


def test_a_vm_stopped_behind_our_back_is_off_and_starts_again() -> None:
    machine = ready()
    machine.handle(GuestSeen(GuestState.OFF, as_of=50.0), 50.0)
    assert machine.state is VmState.OFF
    only(StartGuest, machine.handle(DNS, 51.0))


def test_news_older_than_the_state_is_not_believed() -> None:
    machine = ready(2.0)
    machine.handle(GuestSeen(GuestState.OFF, as_of=1.0), 2.1)
    assert machine.state is VmState.READY


def test_a_vm_that_crashes_soon_after_each_start_backs_off() -> None:
    machine = ready(1.0)
    machine.handle(GuestSeen(GuestState.CRASHED, as_of=2.0), 2.0)
    assert isinstance(only(AnswerSummons, machine.handle(DNS, 2.0)).error, BackingOff)
    stable = ready(1.0)
    stable.handle(GuestSeen(GuestState.CRASHED, as_of=1.0 + STABLE_S), 1.0 + STABLE_S)
    only(StartGuest, stable.handle(DNS, 2.0 + STABLE_S))


@pytest.mark.parametrize("guest", [GuestState.SUSPENDED, GuestState.PAUSED])
def test_a_failed_start_believes_the_hypervisor_that_saved_state_is_still_there(guest: GuestState) -> None:
    machine = off(use_synjitsu="true")
    machine.handle(GuestSeen(guest, 0.5), 0.5)
    arm = only(ArmSynjitsu, machine.handle(DNS, 1.0))
    assert arm.is_there is (guest is GuestState.PAUSED)
    start = only(StartGuest, machine.handle(ArmReturned(arm.call, True), 1.0))
    machine.handle(StartReturned(start.call, BootFailed("no memory")), 1.1)
    assert machine.state is VmState.FAILED
    machine.handle(GuestSeen(guest, 1.2), 1.2)
    assert (machine.state, machine.error) == (VmState(guest.value), "no memory")
    assert isinstance(only(AnswerSummons, machine.handle(DNS, 1.3)).error, BackingOff), "it still backs off"
    again = only(ArmSynjitsu, machine.handle(DNS, 60.0))
    assert again.is_there is (guest is GuestState.PAUSED)


def test_a_failed_start_of_a_vm_that_is_off_stays_failed() -> None:
    machine = off()
    machine.handle(StartReturned(only(StartGuest, machine.handle(DNS, 1.0)).call, BootFailed("no memory")), 1.1)
    machine.handle(GuestSeen(GuestState.OFF, 1.2), 1.2)
    assert machine.state is VmState.FAILED


def test_only_an_operator_who_says_so_discards_saved_state() -> None:
    discarding = SummonRequested("operator", discard=True)
    machine = off()
    machine.handle(GuestSeen(GuestState.PAUSED, 0.5), 0.5)
    assert not only(StartGuest, machine.handle(DNS, 1.0)).discard
    machine = off(use_synjitsu="true")
    machine.handle(GuestSeen(GuestState.PAUSED, 0.5), 0.5)
    arm = only(ArmSynjitsu, machine.handle(discarding, 1.0))
    assert not arm.is_there, "it boots: it will announce itself"
    assert only(StartGuest, machine.handle(ArmReturned(arm.call, True), 1.0)).discard
    assert only(AnswerSummons, machine.handle(discarding, 1.0)).early, "asked for twice it is one"
    later = booting()
    for machine in (later, ready(), draining()):
        with pytest.raises(Refused, match="its saved state is not discarded"):
            machine.handle(discarding, 300.0)


def test_the_timeline_shows_how_long_a_summon_waited_for_admission() -> None:
    machine = off()
    machine.handle(SummonRequested("dns", waited_s=0.5, queued_s=2.0), 10.0)
    assert machine.summons.current is not None
    assert machine.summons.current.stages[:3] == [("query", 7.5), ("summon", 8.0), ("admitted", 10.0)]


def test_the_timeline_of_a_summon_that_did_not_wait_has_no_such_stage() -> None:
    machine = off()
    machine.handle(SummonRequested("dns", waited_s=0.5), 10.0)
    assert machine.summons.current is not None
    assert [name for name, _ in machine.summons.current.stages[:3]] == ["query", "summon", "start call"]


def _events(chance: random.Random, machine: VmMachine, calls: list[int], now: float) -> Event:
    call = chance.choice([*calls[-3:], 0])
    error = chance.choice([None, None, BootFailed("error")])
    kinds: list[Event] = [
        SummonRequested(chance.choice(["dns", "traffic", "operator"])),
        ArmReturned(call, chance.random() < 0.5),
        StartReturned(call, error),
        StopReturned(call, error),
        MaskSignalled(call),
        GuestSeen(chance.choice(list(GuestState)), now - chance.choice([0.0, 2.0])),
        DrainRequested(),
        DrainCancelled(machine.drains.current),
        StopApproved(chance.choice([machine.drains.current, "old"])),
        StopRequested(),
    ]
    return chance.choice(kinds)


@settings(max_examples=examples(400))
@given(st.integers(0, 2**32), st.sampled_from([{}, {"wait_for_port": "80"}, {"use_synjitsu": "true"}]))
def test_no_sequence_of_events_breaks_the_machine(seed: int, keys: dict[str, str]) -> None:
    """No illegal step of states, never two calls at once, and all who wait are answered in bounded time."""
    chance = random.Random(seed)
    machine = VmMachine(Terms(make_vm(ttl="1", boot_limit="5", **keys)))
    now, calls, pending, waiting_since = 0.0, list[int](), None, None

    def perform(actions: list[Action], before: VmState) -> None:
        nonlocal pending, waiting_since
        assert machine.state is before or may_follow(before, machine.state) or len(actions) > 1
        for action in actions:
            if isinstance(action, StartGuest | StopGuest):
                assert pending is None, "a call is under way already"
                pending = action.call
            if isinstance(action, StartGuest | StopGuest | ArmSynjitsu | WatchGuest):
                calls.append(action.call)
            if isinstance(action, AnswerSummons):
                waiting_since = None
            if isinstance(action, SummonAgain):
                perform(machine.handle(action.event, now), machine.state)

    for _ in itertools.repeat(None, 120):
        now += chance.choice([0.0, 0.1, 1.0])
        event = _events(chance, machine, calls, now)
        if isinstance(event, StartReturned | StopReturned):
            if pending is None:
                continue
            event = type(event)(pending, event.error)
            pending = None
        before = machine.state
        if isinstance(event, SummonRequested) and waiting_since is None:
            waiting_since = now
        try:
            perform(machine.handle(event, now), before)
        except (Refused, Unavailable):
            assert machine.state is before
        while (due := machine.deadline()) is not None and due <= now:
            before = machine.state
            perform(machine.tick(now), before)
        if waiting_since is not None:
            assert now - waiting_since <= 5 + STOP_LIMIT_S + 5 + 2
