"""How much may boot and run at once."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitsu_protocol.model.errors import Refused
from jitsu_protocol.model.states import VmState
from jitsu_vmd.rules import admission as module
from jitsu_vmd.rules.admission import PATIENCE_S, Shortage
from jitsu_vmd.rules.events import SummonRequested
from jitsu_vmd.rules.summon import VmMachine
from jitsu_vmd.rules.tally import Tally
from jitsu_vmd.rules.vm.parts import Terms
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jitsu_protocol.model.vm import VM

EVENT = SummonRequested("dns")
BOOTING = Shortage("1 VMs are booting (hypervisor.max_booting)", needs_stop=False)
RUNNING = Shortage("1 VMs are running (hypervisor.max_running)", needs_stop=True)


def after(seconds: float) -> SummonRequested:
    """Return the event of a summon that waited that long for admission."""
    return SummonRequested("dns", queued_s=seconds)


class Watched(module.Admission):
    """An admission that knows what all VMs use before it is asked anything."""

    def shortage(self, vm: VM, machines: Mapping[str, VmMachine]) -> Shortage | None:
        self._look(machines)
        return super().shortage(vm, machines)

    def next(self, machines: Mapping[str, VmMachine], now: float) -> tuple[str, SummonRequested] | None:
        self._look(machines)
        return super().next(machines, now)

    def _look(self, machines: Mapping[str, VmMachine]) -> None:
        for uuid, machine in machines.items():
            self.tally.note(uuid, machine.state, module.memory(machine.vm))


class Machines(dict[str, VmMachine]):
    """VMs of 64 MiB, by uuid."""

    def add(self, name: str, state: str, **keys: str) -> str:
        machine = VmMachine(Terms(make_vm(name, f"127.0.3.{len(self) + 1}", **keys)))
        machine.state = VmState(state)
        self[machine.vm.uuid] = machine
        return machine.vm.uuid


def machines(**states: str) -> Machines:
    made = Machines()
    for name, state in states.items():
        made.add(name, state)
    return made


@pytest.mark.parametrize(
    ("admission", "states", "shortage"),
    [
        (Watched(), {"a": "booting", "b": "ready"}, None),
        (Watched(max_booting=2), {"a": "booting", "b": "ready"}, None),
        (Watched(max_booting=1), {"a": "booting", "b": "ready"}, BOOTING),
        (Watched(max_booting=1), {"a": "starting"}, BOOTING),
        (Watched(max_running=2), {"a": "booting", "b": "off", "c": "paused"}, None),
        (Watched(max_running=1), {"a": "draining"}, RUNNING),
        (Watched(max_running=1), {"a": "stopping"}, RUNNING),
        (Watched(max_memory=3 * 65536), {"a": "ready", "b": "paused", "c": "off"}, None),
        (
            Watched(max_memory=2 * 65536),
            {"a": "ready", "b": "paused"},
            Shortage("131072 KiB of 131072 are in use (hypervisor.max_memory)", needs_stop=True),
        ),
    ],
)
def test_what_keeps_a_vm_from_starting(admission: Watched, states: dict[str, str], shortage: Shortage | None) -> None:
    vms = machines(**states)
    new = vms[vms.add("new", "off")].vm
    assert admission.shortage(new, vms) == shortage


def test_a_paused_vm_has_its_memory_already() -> None:
    vms = machines(a="ready")
    new = vms.add("new", "paused")
    assert Watched(max_memory=2 * 65536).shortage(vms[new].vm, vms) is None


def test_a_vm_that_never_fits_is_refused() -> None:
    with pytest.raises(Refused, match="memory: 65536 KiB are more than"):
        Watched(max_memory=65535).check(make_vm())
    Watched(max_memory=65536).check(make_vm())
    Watched().check(make_vm(memory="99999999"))


def test_those_that_wait_start_in_turn_as_room_comes() -> None:
    vms = Machines()
    a, b, c = vms.add("a", "booting"), vms.add("b", "off"), vms.add("c", "off")
    admission = Watched(max_booting=1)
    assert admission.queue(b, EVENT, BOOTING, 0.0)
    assert admission.queue(c, EVENT, BOOTING, 0.1)
    assert admission.queue(b, EVENT, BOOTING, 0.2), "asked for twice it waits once"
    assert len(admission) == 2
    assert admission.next(vms, 0.3) is None
    vms[a].state = VmState.READY
    assert admission.next(vms, 0.4) == (b, after(0.4))
    vms[b].state = VmState.STARTING
    assert admission.next(vms, 0.5) is None
    vms[b].state = VmState.FAILED
    assert admission.next(vms, 0.6) == (c, after(0.5))
    assert admission.next(vms, 0.7) is None


def test_the_higher_priority_starts_first_and_nobody_takes_what_it_waits_for() -> None:
    vms = Machines()
    a = vms.add("a", "ready", memory="1024")
    big, small = vms.add("big", "off", memory="3072", priority="5"), vms.add("small", "off", memory="1024")
    admission = Watched(max_memory=3072)
    shortage = admission.shortage(vms[big].vm, vms)
    assert shortage is not None
    assert shortage.needs_stop
    admission.queue(big, EVENT, shortage, 1.0)
    ahead = admission.shortage(vms[small].vm, vms)
    assert ahead == Shortage("1 VMs of higher priority wait for room", needs_stop=False)
    admission.queue(small, EVENT, ahead, 0.0)
    assert admission.next(vms, 2.0) is None, "there is admission for the small one, but that is not its turn"
    vms[a].state = VmState.OFF
    assert admission.next(vms, 3.0) == (big, after(2.0))
    vms[big].state = VmState.STARTING
    assert admission.next(vms, 4.0) is None
    vms[big].state = VmState.OFF
    assert admission.next(vms, 5.0) == (small, after(5.0))


def test_one_that_waits_for_a_boot_only_holds_up_nobody() -> None:
    vms = Machines()
    vms.add("a", "booting")
    high, low = vms.add("high", "off", priority="5"), vms.add("low", "off")
    admission = Watched(max_booting=1)
    admission.queue(high, EVENT, BOOTING, 0.0)
    assert admission.shortage(vms[low].vm, vms) == BOOTING


def test_what_is_waited_for_is_known() -> None:
    vms = Machines()
    a, b = vms.add("a", "booting"), vms.add("b", "off")
    admission = Watched(max_booting=1)
    admission.queue(b, EVENT, BOOTING, 0.0)
    assert admission.awaited(b) == BOOTING
    assert admission.awaited(a) is None
    admission.limit(1, 1, 0)
    assert admission.next(vms, 0.1) is None
    assert admission.waiting() == {b: RUNNING}, "admission can be made while others boot"


def test_one_that_was_started_before_its_turn_waits_no_more() -> None:
    vms = Machines()
    vms.add("a", "ready")
    b = vms.add("b", "off")
    admission = Watched(max_running=1)
    admission.queue(b, EVENT, RUNNING, 0.0)
    vms[b].state = VmState.READY
    assert admission.next(vms, 0.1) is None
    assert admission.waiting() == {}


@pytest.mark.parametrize(
    ("running", "waits", "shortage", "may_evict"),
    [
        ({"evict": "true"}, {}, RUNNING, True),
        ({}, {}, RUNNING, False),
        ({"evict": "true"}, {}, BOOTING, False),
        ({"evict": "true", "priority": "1"}, {}, RUNNING, False),
        ({"evict": "true", "priority": "1"}, {"priority": "1"}, RUNNING, True),
    ],
)
def test_who_may_evict(running: dict[str, str], waits: dict[str, str], shortage: Shortage, may_evict: bool) -> None:
    vms = Machines()
    a, b = vms.add("a", "ready", **running), vms.add("b", "off", **waits)
    admission = Watched(max_running=1)
    assert not admission.may_evict(vms[a].vm, vms)
    admission.queue(b, EVENT, shortage, 0.0)
    assert admission.may_evict(vms[a].vm, vms) is may_evict


def test_who_has_not_been_asked_for_again_or_is_gone_is_given_up() -> None:
    vms = Machines()
    vms.add("a", "booting")
    b, c = vms.add("b", "off"), vms.add("c", "off")
    admission = Watched(max_booting=1)
    for vm in ("gone", b, c):
        admission.queue(vm, EVENT, BOOTING, 0.0)
    admission.queue(c, EVENT, BOOTING, 1.0)
    assert admission.deadline() == PATIENCE_S
    assert admission.next(vms, PATIENCE_S) is None
    assert admission.waiting() == {c: BOOTING}
    assert admission.next(vms, PATIENCE_S + 1) is None
    assert admission.deadline() is None


def test_g9_so_many_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED", 1)
    admission = Watched(max_booting=1)
    assert admission.queue("a", EVENT, BOOTING, 0.0)
    assert not admission.queue("b", EVENT, BOOTING, 0.0)
    assert admission.queue("a", EVENT, BOOTING, 0.0)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([*VmState, None]), st.integers(1, 9))))
def test_the_tally_is_what_counting_all_vms_would_give(changes: list[tuple[str, VmState | None, int]]) -> None:
    tally, known = Tally(), dict[str, tuple[VmState, int]]()
    for vm, state, memory in changes:
        known.pop(vm, None)
        if state is None:
            tally.forget(vm)
        else:
            known[vm] = (state, memory)
            tally.note(vm, state, memory)
    states = [state for state, _ in known.values()]
    assert +tally.states == Counter(states)
    assert tally.booting == sum(state in ("starting", "booting") for state in states)
    runs = ("starting", "booting", "ready", "draining", "stopping")
    assert tally.running == sum(state in runs for state in states)
    assert tally.memory == sum(memory for state, memory in known.values() if state in (*runs, "paused"))
