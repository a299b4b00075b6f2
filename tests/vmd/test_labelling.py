"""When hypervisors are asked for labels, and when the store is notified: on virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from jitsu_protocol.messages import DiscoveredMachine
from jitsu_protocol.model.errors import TimedOut
from jitsu_protocol.model.vm import from_config, uuid_for
from jitsu_vmd.rules.labelling import (
    GAP_S,
    LOOK_S,
    RETRY_S,
    SETTLE_S,
    AskMachines,
    HintHeard,
    LabellingMachine,
    MachinesListed,
    StoreAgreed,
    StoreFailed,
    TellStore,
    TreeMoved,
)
from jitsu_vmd.rules.labels import LabelRules

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM

WEB = uuid_for("web")
CONFIGURED = from_config({"name": ["web"], "dns": ["web.lab.test"], "ip": ["192.0.2.1"]}, {})
MACHINE = DiscoveredMachine(name="web", addresses=["192.0.2.1"], keys={"dns": "web.lab.test"})
LISTED = MachinesListed({"": [MACHINE]})
NOTHING = MachinesListed({"": []})


def labelling(zones: tuple[str, ...] = ("lab.test",), known: dict[str, VM] | None = None) -> LabellingMachine:
    there = {} if known is None else known
    return LabellingMachine(LabelRules({"": zones}), lambda: there)


def asked(machine: LabellingMachine, now: float, answer: MachinesListed = LISTED) -> list[Any]:
    """Let it ask, and return what follows from the answer."""
    assert machine.tick(now) == [AskMachines(("",))]
    return machine.handle(answer, now)


def settled(known: dict[str, VM] | None = None) -> LabellingMachine:
    """Return a machine that has described one VM to the store, at time 100."""
    machine = labelling(known=known)
    [tell] = asked(machine, 100.0)
    assert list(tell.reading.vms) == [WEB]
    assert machine.handle(StoreAgreed({}), 100.0) == []
    return machine


def test_the_store_is_told_once_and_then_only_of_differences() -> None:
    machine = settled()
    assert machine.deadline() == 100.0 + LOOK_S
    assert asked(machine, 110.0) == []
    [tell] = asked(machine, 120.0, NOTHING)
    assert not tell.reading.vms


def test_a_vmd_that_starts_tells_the_store_even_that_there_is_nothing() -> None:
    assert asked(labelling(), 0.0, NOTHING) != []


def test_a_hint_is_followed_when_things_have_settled_and_not_more_often_than_the_gap_allows() -> None:
    machine = settled()
    machine.handle(HintHeard(), 105.0)
    assert machine.deadline() == 105.0 + SETTLE_S
    machine.handle(HintHeard(), 105.1)
    assert machine.deadline() == 105.0 + SETTLE_S
    assert asked(machine, 105.2) == []
    machine.handle(HintHeard(), 105.3)
    assert machine.deadline() == 105.2 + GAP_S


def test_a_hint_while_hypervisors_are_asked_is_followed_afterwards() -> None:
    machine = settled()
    machine.tick(110.0)
    machine.handle(HintHeard(), 110.5)
    assert machine.deadline() is None
    machine.handle(LISTED, 112.0)
    assert machine.deadline() == 112.0 + SETTLE_S


def test_a_store_that_does_not_answer_is_told_again() -> None:
    machine = labelling()
    asked(machine, 0.0)
    machine.handle(StoreFailed("the store does not answer"), 3.0)
    assert (machine.trouble, machine.deadline()) == ("the store does not answer", 3.0 + RETRY_S)
    assert asked(machine, 5.0) != []
    machine.handle(StoreAgreed({}), 5.0)
    assert machine.trouble == ""


def test_what_the_store_refuses_is_shown_and_tried_again_when_the_tree_changes() -> None:
    machine = labelling()
    asked(machine, 0.0)
    machine.handle(StoreAgreed({WEB: "dns: web.lab.test belongs to the VM mine already"}), 0.0)
    assert machine.faults[WEB].machine == "web"
    assert asked(machine, 10.0) == []
    assert WEB in machine.faults
    machine.handle(TreeMoved({"another"}), 12.0)
    assert asked(machine, 12.2) != []
    machine.handle(StoreAgreed({}), 12.3)
    assert machine.faults == {}


def test_a_vm_that_somebody_has_removed_is_told_again_and_other_changes_are_not() -> None:
    known = {WEB: CONFIGURED}
    machine = settled(known)
    machine.handle(TreeMoved({WEB, "another"}), 105.0)
    assert machine.deadline() == 100.0 + LOOK_S
    known.clear()
    machine.handle(TreeMoved({WEB}), 106.0)
    assert machine.deadline() == 106.0 + SETTLE_S
    assert asked(machine, 106.2) != []


@pytest.mark.parametrize("is_removed", [False, True])
def test_a_vm_that_is_removed_while_hypervisors_are_asked_is_told_when_they_have_answered(is_removed: bool) -> None:
    known = {WEB: CONFIGURED}
    machine = settled(known)
    machine.tick(110.0)
    if is_removed:
        known.clear()
    machine.handle(TreeMoved({WEB, "another"}), 110.5)
    assert bool(machine.handle(LISTED, 112.0)) is is_removed


def test_without_zones_nothing_is_asked_and_the_store_is_told_once_that_there_is_nothing() -> None:
    machine = labelling(zones=())
    assert machine.tick(0.0) == [AskMachines(())]
    [tell] = machine.handle(MachinesListed({}), 0.0)
    assert isinstance(tell, TellStore)
    assert not tell.reading
    machine.handle(StoreAgreed({}), 0.0)
    machine.handle(HintHeard(), 1.0)
    assert machine.deadline() is None


@pytest.mark.parametrize("answer", [MachinesListed({"": TimedOut("it hangs")}), MachinesListed({"": []})])
def test_a_silent_hypervisor_that_answers_again_is_news_for_the_store(answer: MachinesListed) -> None:
    machine = settled()
    [first] = asked(machine, 110.0, MachinesListed({"": TimedOut("timed out")}))
    assert first.reading.silent == ("",)
    machine.handle(StoreAgreed({}), 110.0)
    assert bool(asked(machine, 120.0, answer)) is (answer.answers[""] == [])
