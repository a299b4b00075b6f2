"""What is reported of VMs that are not configured, or no longer: it is kept for a while, and it is bounded (G9)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.messages import Report, Use, VmStatus
from jitsu_protocol.model.inventory import VmChanged
from jitsu_protocol.model.states import VmState
from jitsu_reaper.rules import usage
from jitsu_reaper.rules.statistics import MAX_NAMES
from jitsu_reaper.rules.usage import UNKNOWN_S, Usage
from tests.support.reaper import SteadyPolicy
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest

WWW = make_vm(ttl="10")  # idle after 20 s


class Reaper:
    """A policy to which one replica reports."""

    def __init__(self) -> None:
        self.usage = Usage(floor=0.0)
        self.policy = SteadyPolicy(self.usage)
        self.batch = 0

    def report(self, now: float, uses: Iterable[tuple[str, str]] = ()) -> None:
        self.batch += 1
        told = [Use(vm, name, 1, 0.0) for vm, name in uses]
        report = Report(replica="a", instance="i", batch=self.batch, lease_s=300.0, uses=told, ttls=[10] * len(told))
        self.policy.report(report, now, now)

    def remembers(self) -> set[str]:
        """Return the VMs about which anything is kept."""
        return self.usage.remembered() | {vm for vm, _ in self.usage.statistics.unsaved}


def test_the_use_of_a_vm_that_is_not_configured_is_forgotten_a_minute_after_its_last_report() -> None:
    made = Reaper()
    made.report(0.0, [("gone", "a"), ("used", "b")])
    made.report(50.0, [("used", "b")])
    made.policy.tick(UNKNOWN_S - 1.0)
    assert made.remembers() == {"gone", "used"}
    made.policy.tick(UNKNOWN_S)
    assert made.remembers() == {"used"}
    made.policy.tick(50.0 + UNKNOWN_S)
    assert made.remembers() == set()
    assert made.usage.statistics.unsaved_ttls == {}


def test_g9_of_vms_that_are_not_configured_so_many_are_remembered_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 200
    monkeypatch.setattr(usage, "MAX_UNKNOWN", limit)
    made = Reaper()
    for first in range(0, 3 * limit, limit):
        made.report(1.0, [(f"v{n}", "") for n in range(first, first + limit)])
    assert len(made.remembers()) == limit
    assert "v0" not in made.remembers()


def test_g9_of_one_vm_so_many_names_are_counted_and_the_use_of_all_of_them_counts() -> None:
    made = Reaper()
    made.policy.configure([VmChanged(None, WWW)])
    for first in range(0, 2 * MAX_NAMES, 1000):
        made.report(float(first), [(WWW.uuid, f"n{n}") for n in range(first, first + 1000)])
    assert len(made.usage.statistics.totals) == MAX_NAMES
    assert made.usage.last_use(WWW.uuid, "") == 2 * MAX_NAMES - 1000


def test_g3_what_was_reported_before_a_vm_was_configured_counts() -> None:
    made = Reaper()
    made.report(5.0, [(WWW.uuid, "www.jitsu.test")])
    made.policy.tick(6.0)
    made.policy.configure([VmChanged(None, WWW)])
    assert made.usage.statistics.totals[WWW.uuid, "www.jitsu.test"].requests == 1
    assert made.usage.last_use(WWW.uuid, "") == 6.0


def test_g8_a_vm_that_is_configured_late_counts_as_used_when_it_comes() -> None:
    made = Reaper()
    made.report(5.0, [(WWW.uuid, "www.jitsu.test")])
    made.policy.state(VmStatus(uuid=WWW.uuid, name="www", state=VmState.READY), 5.0)
    made.policy.tick(5.0 + 2 * UNKNOWN_S)
    made.policy.configure([VmChanged(None, WWW)])
    assert made.usage.last_use(WWW.uuid, "") == 5.0 + 2 * UNKNOWN_S
    for second in range(20):
        made.report(125.0 + second)
        assert made.policy.tick(125.0 + second) == []


def test_nothing_is_left_of_a_vm_that_was_removed_and_has_stopped() -> None:
    made = Reaper()
    made.policy.configure([VmChanged(None, WWW)])
    for state in (VmState.READY, VmState.STOPPING):
        made.policy.state(VmStatus(uuid=WWW.uuid, name="www", state=state, idle_s=1.0), 1.0)
    made.policy.configure([VmChanged(WWW, None)])
    made.policy.state(VmStatus(uuid=WWW.uuid, name="www", state=VmState.STOPPING, idle_s=2.0), 2.0)
    assert made.policy.vms.name_of(WWW.uuid) == "www"
    made.policy.state(VmStatus(uuid=WWW.uuid, name="www", state=VmState.OFF), 3.0, gone=True)
    assert made.remembers() == set()
    assert made.policy.vms.name_of(WWW.uuid) == WWW.uuid
