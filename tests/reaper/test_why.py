"""`jitsu why` in made-up situations, each with the exact text."""

from __future__ import annotations

import pytest

from jitsu_protocol.messages import VmBoot, VmStatus, WhyReport
from jitsu_protocol.model.errors import NotFound
from jitsu_protocol.model.inventory import VmChanged
from jitsu_protocol.model.states import VmState
from jitsu_reaper.rules.events import StateChanged, VmsConfigured
from jitsu_reaper.rules.reaper import Reaper
from tests.support.vms import make_vm

WWW = make_vm(ttl="60")


class Hears:
    """Everybody is heard."""

    def hears_store(self) -> bool:
        return True

    def hears_vmds(self) -> dict[str, bool]:
        return {"": True}


def test_nothing_is_known_of_a_vm_that_there_is_not() -> None:
    with pytest.raises(NotFound, match="nothing is known of a VM 'x'"):
        Reaper(Hears(), 3.0, 0.0).why("x", 0.0, 0.0)


def test_a_vm_that_an_operator_started() -> None:
    reaper = Reaper(Hears(), 3.0, 0.0)
    reaper.handle(VmsConfigured([VmChanged(None, WWW)]), 0.0)
    boot = VmBoot(trigger="operator", by="operator:alice", begun_mono=5.0, age_s=10.0, took_s=0.25)
    status = VmStatus(uuid=WWW.uuid, name="www", state=VmState.READY, state_age_s=9.75, boot=boot)
    reaper.handle(StateChanged(status, wall=1000.0), 100.0)
    report: WhyReport = reaper.why(WWW.uuid, 100.0, 1000.0)
    assert report.why_booted == "www booted 10 s ago, because operator:alice started it. It was ready 250 ms later."


def test_a_vm_that_its_schedule_started_and_keeps_up() -> None:
    reaper = Reaper(Hears(), 3.0, 0.0)
    reaper.handle(VmsConfigured([VmChanged(None, WWW)]), 0.0)
    boot = VmBoot(trigger="schedule", begun_mono=5.0, age_s=10.0, took_s=0.25)
    awake = "awake until Fri 2026-11-27 18:00 CET, by its schedule"
    status = VmStatus(uuid=WWW.uuid, name="www", state=VmState.READY, state_age_s=9.75, boot=boot, kept=awake)
    reaper.handle(StateChanged(status, wall=1000.0), 100.0)
    report = reaper.why(WWW.uuid, 100.0, 1000.0)
    assert report.why_booted.startswith("www booted 10 s ago, because its schedule has it awake (vmd).")
    assert f"it is {awake}" in report.why_up


def test_a_vm_that_is_asleep() -> None:
    reaper = Reaper(Hears(), 3.0, 0.0)
    reaper.handle(VmsConfigured([VmChanged(None, WWW)]), 0.0)
    asleep = "asleep until Mon 2026-11-30 08:00 CET, by its schedule"
    status = VmStatus(uuid=WWW.uuid, name="www", state=VmState.OFF, asleep=asleep)
    reaper.handle(StateChanged(status, wall=1000.0), 100.0)
    report = reaper.why(WWW.uuid, 100.0, 1000.0)
    assert report.when_stops == f"It does not run, and no query starts it: it is {asleep}."
