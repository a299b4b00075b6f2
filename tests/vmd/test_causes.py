"""What vmd publishes of why a VM was started and stopped the last time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.model.errors import Unavailable
from jitsu_protocol.model.states import VmState
from jitsu_vmd.rules.events import (
    DrainRequested,
    Event,
    GuestSeen,
    GuestState,
    Reconfigured,
    Removed,
    StartGuest,
    StartReturned,
    StopApproved,
    StopGuest,
    StopRequested,
    StopReturned,
    SummonRequested,
)
from jitsu_vmd.rules.summon import VmMachine
from jitsu_vmd.rules.vm.parts import Terms
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from collections.abc import Callable

VM = make_vm(response_delay="0.5", ttl="10")


def ready() -> VmMachine:
    """Return one that a query of dns-0 has woken at 1 s, after it waited for 0.25 s."""
    machine = VmMachine(Terms(VM))
    machine.handle(GuestSeen(GuestState.OFF, 0.0), 0.0)
    summon = SummonRequested("dns", waited_s=0.25, by="dns-0#i-1")
    (start,) = [each for each in machine.handle(summon, 1.0) if isinstance(each, StartGuest)]
    machine.handle(SummonRequested("dns", by="dns-1#i-1"), 1.1)
    machine.handle(StartReturned(start.call), 1.2)
    machine.tick(1.7)
    assert machine.state is VmState.READY
    return machine


def test_the_first_request_is_the_cause_of_a_boot_and_the_others_join_it() -> None:
    boot = ready().summons.causes.boot_at(11.0)
    assert boot is not None
    assert (boot.trigger, boot.by, boot.joined) == ("dns", "dns-0#i-1", 1)
    assert (boot.begun_mono, boot.age_s) == (0.75, 10.25)
    assert boot.took_s == pytest.approx(0.95)


def test_a_boot_that_fails_is_a_stop_with_its_reason() -> None:
    machine = VmMachine(Terms(VM))
    machine.handle(GuestSeen(GuestState.OFF, 0.0), 0.0)
    (start,) = [each for each in machine.handle(SummonRequested("dns"), 1.0) if isinstance(each, StartGuest)]
    machine.handle(StartReturned(start.call, Unavailable("no memory")), 2.0)
    boot, stop = machine.summons.causes.boot_at(2.0), machine.summons.causes.stop_at(2.0)
    assert boot is not None
    assert boot.took_s is None
    assert stop is not None
    assert (stop.why, stop.note, stop.took_s) == ("failed", "no memory", 0.0)


def _drained(machine: VmMachine) -> Event:
    machine.handle(DrainRequested(), 100.0)
    return StopApproved(machine.drains.current)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (_drained, ("idle", "", "")),
        (lambda _: StopRequested("operator:bob"), ("operator", "operator:bob", "")),
        (lambda _: Removed(), ("removed", "", "it is no longer configured")),
        (lambda _: GuestSeen(GuestState.OFF, 100.0), ("ended", "", "")),
        (lambda _: GuestSeen(GuestState.CRASHED, 100.0, reason="kernel panic"), ("crashed", "", "kernel panic")),
    ],
)
def test_each_way_to_stop_says_who_wanted_it(
    event: Callable[[VmMachine], Event], expected: tuple[str, str, str]
) -> None:
    machine = ready()
    actions = machine.handle(event(machine), 100.0)
    for stop in [each for each in actions if isinstance(each, StopGuest)]:
        machine.handle(StopReturned(stop.call), 100.5)
    found = machine.summons.causes.stop_at(101.0)
    assert found is not None
    assert (found.why, found.by, found.note) == expected
    assert found.took_s is not None
    assert found.age_s == 1.0


def test_a_guest_whose_configuration_has_changed_is_stopped_for_that() -> None:
    machine = ready()
    machine.handle(Reconfigured(make_vm(address="127.0.1.9", response_delay="0.5", ttl="10")), 100.0)
    found = machine.summons.causes.stop_at(100.0)
    assert found is not None
    assert found.why == "changed"
    assert found.note == "its guest was started with 127.0.1.1, configured is 127.0.1.9"


def test_a_guest_that_somebody_else_had_started_has_no_boot_of_ours() -> None:
    machine = VmMachine(Terms(VM))
    machine.handle(GuestSeen(GuestState.RUNNING, 0.0, up_s=50.0), 1.0)
    assert machine.summons.causes.boot_at(1.0) is None
    assert machine.summons.causes.stop_at(1.0) is None
