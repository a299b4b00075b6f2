"""G9: whatever one VM is configured to be, and whatever vmd says of it, the others are stopped when they are idle."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings

from jitsu_protocol.messages import Report, VmStatus
from jitsu_protocol.model.inventory import check_durations
from jitsu_protocol.model.states import VmState
from jitsu_reaper.rules.activity import Activity
from jitsu_reaper.rules.drain import AskDrain
from jitsu_reaper.wires import server as wires
from jitsu_reaper.wires.server import ReaperServer
from tests.support.examples import examples
from tests.support.odd_vms import GOOD, LAST, odd_statuses, odd_vms, told_of
from tests.support.process import running_process
from tests.support.reaper import SteadyPolicy
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Never

    from jitsu_protocol.model.inventory import Inventory
    from jitsu_protocol.model.vm import VM


def _drained(check: Callable[[VM], object], odd: VM, status: VmStatus) -> Inventory:
    """See that GOOD is drained when it has been idle for 20 s, beside another VM; return what is known of both."""
    inventory, changes = told_of(check, GOOD, odd)
    policy = SteadyPolicy(Activity(floor=0.0), drain_limit_s=3.0)
    policy.blind = ""
    policy.configure(changes)
    policy.all_states([status, VmStatus(uuid=GOOD.uuid, name="good", state=VmState.READY), status], 0.0)
    wanted = []
    for second in range(21):
        policy.report(Report(replica="a", instance="i", batch=second, lease_s=300.0), float(second), 0.0)
        wanted += [(second, action.vm) for action in policy.passed(float(second)) if isinstance(action, AskDrain)]
        due = policy.next_deadline(float(second))
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
    policy = SteadyPolicy(Activity(floor=0.0), drain_limit_s=3.0)
    policy.configure(told_of(check_durations, GOOD)[1])
    policy.state(status, 100.0)
    used_at = policy.activity.last_use(GOOD.uuid, "")
    ages = [age for age in (status.idle_s, status.state_age_s) if age is not None]
    assert 0.0 <= used_at <= 100.0
    if not all(0 <= age < math.inf for age in ages):
        assert used_at == 100.0


class Followed(Exception):
    """What the test asks for has been seen."""


async def test_the_reaper_leaves_out_a_vm_with_which_it_cannot_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks: list[Callable[[VM], object]] = []

    async def follow(*_: object, check: Callable[[VM], object], **__: object) -> Never:
        checks.append(check)
        raise Followed

    async def told(*_: object) -> dict[str, str]:
        return {}

    monkeypatch.setattr(wires, "follow_vms", follow)
    monkeypatch.setattr(wires, "told", told)
    async with running_process("reaper", tmp_path) as process:
        with pytest.raises(Followed):
            await ReaperServer(process).start()
    inventory, _ = told_of(checks[0], GOOD.model_copy(update={"idle_timeout": math.nan}))
    (note,) = inventory.notes(inventory.refused)
    assert note.endswith("is left out: idle_timeout: nan is not a duration; use seconds from 0 to 315360000")
