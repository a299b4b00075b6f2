"""The drain of one VM, and why nothing may be stopped."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from jitsu_protocol.machine import IllegalEvent
from jitsu_protocol.messages import Report
from jitsu_reaper.rules.drain import (
    Acknowledged,
    AskStop,
    DrainBegun,
    DrainEnded,
    DrainMachine,
    DrainState,
    TakeBackDrain,
    Used,
)
from jitsu_reaper.rules.reporters import SILENT_S, Obstacles, Reporters


def waiting() -> DrainMachine:
    drain = DrainMachine("v", limit_s=3.0)
    assert drain.deadline() is None
    assert drain.handle(DrainBegun("v", "d"), 10.0) == []
    assert drain.deadline() == 13.0
    return drain


def test_a_drain_that_everybody_has_acknowledged_stops_the_vm() -> None:
    drain = waiting()
    assert drain.handle(Acknowledged(), 11.0) == [AskStop("v", "d")]
    assert drain.deadline() is None
    assert drain.tick(100.0) == []
    assert drain.handle(DrainEnded("v"), 12.0) == []
    assert drain.state is DrainState.OVER


def test_g3_use_ends_a_drain() -> None:
    drain = waiting()
    assert drain.handle(Used(), 11.0) == [TakeBackDrain("v", "d")]
    assert drain.state is DrainState.OVER


def test_g8_a_drain_that_is_not_acknowledged_in_time_is_taken_back() -> None:
    drain = waiting()
    assert drain.tick(12.9) == []
    assert drain.tick(13.0) == [TakeBackDrain("v", "d")]


def test_a_late_reply_to_an_earlier_request_is_followed_by_that_of_the_latest_drain() -> None:
    drain = waiting()
    assert drain.handle(DrainBegun("v", "e"), 11.0) == []
    assert drain.handle(Acknowledged(), 11.0) == [AskStop("v", "e")]


def test_g3_a_vm_is_not_stopped_before_vmd_drains_it() -> None:
    drain = DrainMachine("v", limit_s=3.0)
    with pytest.raises(IllegalEvent):
        drain.handle(Acknowledged(), 1.0)
    assert drain.tick(100.0) == []
    assert drain.state is DrainState.ASKING


@dataclass
class Heard:
    store: bool = True
    vmds: dict[str, bool] = field(default_factory=lambda: {"alpha": True, "beta": True})

    def hears_store(self) -> bool:
        return self.store

    def hears_vmds(self) -> dict[str, bool]:
        return self.vmds


def reporters() -> Reporters:
    known = Reporters(floor=0.0)
    known.report(Report(replica="dns-0", instance="i", batch=1, lease_s=300.0), 0.0)
    known.report(Report(replica="s", service="synjitsu", host="beta", instance="i", batch=1, lease_s=300.0), 0.0)
    return known


def test_g8_whoever_is_not_heard_stands_in_the_way_of_what_it_may_know() -> None:
    known = reporters()
    assert known.obstacles(Heard(), 1.0) == Obstacles()
    assert known.obstacles(Heard(store=False), 1.0).notes() == ["stops nothing: the store is silent"]
    assert known.obstacles(Heard(vmds={}), 1.0).everywhere == "vmd is silent"
    assert known.obstacles(Heard(vmds={"alpha": False, "beta": False}), 1.0).everywhere == "vmd is silent"
    one = known.obstacles(Heard(vmds={"alpha": False, "beta": True}), 1.0)
    assert one.notes() == ["stops nothing on alpha: its vmd is silent"]
    assert Reporters(floor=0.0).obstacles(Heard(), 1.0).everywhere == "no dns replica has reported yet"


def test_g8_a_silent_replica_stands_in_the_way_everywhere_and_a_silent_synjitsu_on_its_host() -> None:
    known = reporters()
    silent = known.obstacles(Heard(), SILENT_S)
    assert silent.everywhere == "dns replica dns-0 is silent and may still answer"
    known.report(Report(replica="dns-0", instance="i", batch=2, lease_s=300.0), SILENT_S)
    assert known.obstacles(Heard(), SILENT_S) == Obstacles("", {"beta": "s is silent, and a client may be connected"})
