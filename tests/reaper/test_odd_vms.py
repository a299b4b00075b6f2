"""G9: whatever one VM is configured to be, and whatever vmd says of it, the others are stopped when they are idle."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hypothesis import given, settings

from jitsu_protocol.messages import Report, VmStatus
from jitsu_protocol.model.inventory import check_durations
from jitsu_protocol.model.states import VmState
from jitsu_reaper.rules.drain import AskDrain
from tests.support.examples import examples
from tests.support.odd_vms import GOOD, LAST, odd_statuses, odd_vms, told_of
from tests.support.reaper import SteadyPolicy
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from collections.abc import Callable

    from jitsu_protocol.model.inventory import Inventory
    from jitsu_protocol.model.vm import VM


def _drained(check: Callable[[VM], object], odd: VM, status: VmStatus) -> Inventory:
    """See that GOOD is drained when it has been idle for 20 s, beside another VM; return what is known of both."""
    inventory, changes = told_of(check, GOOD, odd)
    policy = SteadyPolicy()
    policy.configure(changes)
    policy.all_states([status, VmStatus(uuid=GOOD.uuid, name="good", state=VmState.READY), status], 0.0)
    wanted = []
    for second in range(21):
        policy.report(Report(replica="a", instance="i", batch=second, lease_s=300.0), float(second), 0.0)
        wanted += [(second, action.vm) for action in policy.tick(float(second)) if isinstance(action, AskDrain)]
        due = policy.deadline()
        assert due is None or math.isfinite(due)
    assert [second for second, vm in wanted if vm == GOOD.uuid] == [20]
    return inventory


@settings(max_examples=examples(100), deadline=None)
@given(odd_vms())
def test_g9_whatever_one_vm_is_the_others_are_drained_in_their_time(odd: VM) -> None:
    known = _drained(check_durations, odd, VmStatus(uuid=odd.uuid, name="odd", state=VmState.READY))
    assert len(known.notes(known.refused)) == (odd.uuid not in known.vms)


@settings(max_examples=examples(60), deadline=None)
@given(odd_statuses(LAST))
def test_g9_whatever_vmd_says_of_one_vm_the_others_are_drained_in_their_time(status: VmStatus) -> None:
    assert not _drained(check_durations, make_vm("odd", "10.0.0.2", uuid=LAST), status).refused


@given(odd_statuses(GOOD.uuid).map(lambda status: status.model_copy(update={"state": VmState.READY})))
@settings(max_examples=examples(40), deadline=None)
def test_g8_a_vm_whose_age_is_not_a_number_counts_as_used_just_now(status: VmStatus) -> None:
    policy = SteadyPolicy()
    policy.configure(told_of(check_durations, GOOD)[1])
    policy.state(status, 100.0)
    used_at = policy.usage.last_use(GOOD.uuid, "")
    ages = [age for age in (status.idle_s, status.state_age_s) if age is not None]
    assert 0.0 <= used_at <= 100.0
    if not all(0 <= age < math.inf for age in ages):
        assert used_at == 100.0
