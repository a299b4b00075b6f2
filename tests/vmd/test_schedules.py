"""What vmd does with VMs that have a schedule."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from jitsu_protocol.messages import Drain, Summon
from jitsu_protocol.model.errors import JitsuError, Refused, Unavailable
from jitsu_protocol.model.holds import KEEP_ROOT, path_of
from jitsu_protocol.model.states import VmState
from jitsu_vmd.rules.events import (
    DrainRequested,
    GuestSeen,
    GuestState,
    StartGuest,
    StartReturned,
    StopRequested,
    StopReturned,
    SummonRequested,
)
from jitsu_vmd.rules.orders import Orders
from jitsu_vmd.rules.schedules import RETRY_S, UNMEASURED_BOOT_S, Schedules
from jitsu_vmd.rules.summon import VmMachine
from jitsu_vmd.rules.vm.parts import Terms
from tests.support.vmd import running_vmd
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from pathlib import Path

    from jitsu_protocol.messages import Trigger

OFFICE = "Mon-Fri 08:00-18:00"


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


class Planned:
    """The schedules of one VM, whose machine the test plays."""

    def __init__(self, **keys: str) -> None:
        self.vm = make_vm(response_delay="0", time_zone="UTC", **keys)
        self.machine = VmMachine(Terms(self.vm))
        self.machine.handle(GuestSeen(GuestState.OFF, 0.0), 0.0)
        self.schedules = Schedules(lambda _: self.machine, lambda: UTC)
        self.schedules.configure(self.vm.uuid, self.vm)

    def look(self, text: str) -> tuple[bool, Orders]:
        """Return whether the VM is to be started, and what its schedule asks for."""
        starts = self.schedules.look(at(text))
        return starts == [self.vm.uuid], self.schedules.orders(self.vm.uuid)

    def boot(self, *, seconds: float = 0.0) -> None:
        (start,) = [
            each for each in self.machine.handle(SummonRequested("schedule"), 1.0) if isinstance(each, StartGuest)
        ]
        self.machine.handle(StartReturned(start.call), 1.0 + seconds)
        assert self.machine.state is VmState.READY

    def stop(self) -> None:
        self.machine.handle(StopRequested(), 9.0)
        self.machine.handle(StopReturned(self.machine.call.number), 9.0)
        assert self.machine.state is VmState.OFF

    def next_look(self) -> str:
        deadline = self.schedules.deadline()
        assert deadline is not None
        return datetime.fromtimestamp(deadline, UTC).isoformat(" ")[:19]


def test_a_vm_is_started_ahead_of_its_window_and_kept_up_until_that_closes() -> None:
    planned = Planned(awake=OFFICE)
    assert planned.look("2026-11-30 07:00:00") == (False, Orders())
    assert planned.next_look() == "2026-11-30 07:59:30", f"{UNMEASURED_BOOT_S:g} s ahead: no boot was measured"
    is_started, orders = planned.look("2026-11-30 07:59:30")
    assert is_started
    assert orders == Orders(kept="awake until Mon 2026-11-30 18:00 UTC, by its schedule")
    planned.boot(seconds=8.0)
    assert planned.look("2026-11-30 07:59:45") == (False, orders)
    assert planned.next_look() == "2026-11-30 18:00:00"
    assert planned.look("2026-11-30 18:00:00") == (False, Orders())
    assert planned.next_look() == "2026-12-01 07:59:50", "a boot takes 8 s, and a quarter more"


def test_a_start_that_fails_is_tried_again_until_it_has_run_once() -> None:
    planned = Planned(awake=OFFICE)
    assert planned.look("2026-11-30 09:00:00")[0], "vmd was started in the middle of the window"
    assert planned.look("2026-11-30 09:00:09")[0] is False
    assert planned.look(f"2026-11-30 09:00:{RETRY_S:.0f}")[0]
    planned.boot()
    assert planned.look("2026-11-30 09:00:20")[0] is False
    planned.stop()
    assert planned.look("2026-11-30 12:00:00")[0] is False, "an operator has stopped it"
    assert planned.look("2026-12-01 08:00:00")[0], "the next day"


def test_a_vm_that_is_asleep_says_until_when() -> None:
    planned = Planned(asleep="22:00-06:00")
    assert planned.look("2026-11-30 23:00:00") == (
        False,
        Orders(asleep="asleep until Tue 2026-12-01 06:00 UTC, by its schedule"),
    )
    assert planned.look("2026-12-01 06:00:00") == (False, Orders())


def test_a_vm_that_is_awake_after_it_was_asleep_is_started_ahead_all_the_same() -> None:
    planned = Planned(asleep="00:00-08:00", awake="08:00-18:00")
    is_started, orders = planned.look("2026-11-30 07:59:40")
    assert is_started
    assert orders == Orders(kept="awake until Mon 2026-11-30 18:00 UTC, by its schedule")


def test_a_clock_that_is_set_back_is_noticed() -> None:
    planned = Planned(asleep="22:00-06:00")
    planned.look("2026-12-01 12:00:00")
    assert planned.look("2026-11-30 23:00:00")[1].asleep


def test_another_schedule_counts_at_once_and_none_ends_it() -> None:
    planned = Planned(awake="00:00-24:00")
    assert planned.look("2026-11-30 12:00:00")[1].kept == "awake, by its schedule", "it has no end"
    planned.boot()
    planned.look("2026-11-30 12:00:20")
    planned.schedules.configure(planned.vm.uuid, make_vm(asleep="00:00-24:00"))
    assert planned.look("2026-11-30 12:00:30")[1].asleep
    planned.schedules.configure(planned.vm.uuid, None)
    assert planned.look("2026-11-30 12:00:40")[1] == Orders()
    assert planned.schedules.deadline() is None


def test_a_vm_that_runs_is_not_started_again_because_its_schedule_is_written_anew() -> None:
    planned = Planned(awake=OFFICE)
    planned.look("2026-11-30 09:00:00")
    planned.boot()
    planned.look("2026-11-30 09:00:10")
    planned.stop()
    planned.schedules.configure(planned.vm.uuid, make_vm(awake="Mon 08:00-20:00", time_zone="UTC"))
    assert planned.look("2026-11-30 09:01:00")[0] is False


# --- what the orders of a schedule mean ---


@pytest.mark.parametrize(
    ("trigger", "is_refused"), [("dns", True), ("traffic", True), ("operator", False), ("schedule", False)]
)
def test_only_an_operator_and_the_schedule_itself_start_a_vm_that_is_asleep(trigger: Trigger, is_refused: bool) -> None:
    assert bool(Orders(asleep="asleep").forbid(trigger)) is is_refused


@pytest.mark.parametrize("trigger", ["dns", "traffic", "schedule"])
def test_only_an_operator_starts_a_vm_that_is_held(trigger: Trigger) -> None:
    assert Orders(hold="held", kept="awake").forbid(trigger) == "held"


def test_a_vm_that_is_asleep_is_stopped_once_it_is_idle_and_not_before() -> None:
    planned = Planned(awake=OFFICE, ttl="1")
    planned.boot()
    planned.machine.terms.orders = Orders(asleep="asleep")
    with pytest.raises(Refused, match="is not idle"):
        planned.machine.handle(DrainRequested(), 1.5)
    planned.machine.handle(DrainRequested(), 500.0)
    assert planned.machine.state is VmState.DRAINING


# --- the daemon ---


async def test_vmd_starts_a_vm_by_its_schedule_and_keeps_it_up(tmp_path: Path) -> None:
    vm, other = make_vm("www", awake="00:00-24:00", response_delay="0"), make_vm("other", "127.0.1.2")
    async with running_vmd(tmp_path, vm, other) as vmd:
        await vmd.becomes("www", VmState.READY)
        (status,) = [each for each in vmd.listed() if each.name == "www"]
        assert status.kept == "awake, by its schedule"
        with pytest.raises(Refused, match="www is awake, by its schedule"):
            vmd.daemon.drain(Drain(vm=vm.uuid))
        vmd.daemon.orders.holds.heard({path_of(vm.uuid, KEEP_ROOT): "0 anna"})
        assert [each.kept for each in vmd.listed()] == ["kept up by anna", ""], "an operator's word goes first"
        assert vmd.hypervisor.calls == [("start", "www")]


async def test_a_query_for_a_vm_that_is_asleep_is_refused_with_the_reason_until_it_is_not(tmp_path: Path) -> None:
    vm = make_vm("www", asleep="00:00-24:00", response_delay="0")
    async with running_vmd(tmp_path, vm) as vmd:
        with pytest.raises(Refused, match="www is asleep, by its schedule"):
            await vmd.summoned(Summon(vm=vm.uuid, trigger="dns"))
        await vmd.summoned(Summon(vm=vm.uuid, trigger="operator"))
        assert vmd.listed()[0].asleep == "asleep, by its schedule"
        vmd.configure(make_vm("www", response_delay="0"))
        await vmd.pass_time(0.1)
        assert vmd.listed()[0].asleep == ""


async def test_a_start_by_schedule_that_fails_is_tried_again(tmp_path: Path) -> None:
    vm = make_vm("www", awake="00:00-24:00", response_delay="0")
    async with running_vmd(tmp_path) as vmd:
        vmd.hypervisor.fails = "no memory"
        vmd.configure(vm)
        await vmd.becomes("www", VmState.FAILED)
        await vmd.becomes("www", VmState.READY)
        assert vmd.hypervisor.calls == [("start", "www")] * 2


async def test_a_schedule_that_no_calendar_knows_keeps_its_vm_from_starting_and_says_why(tmp_path: Path) -> None:
    vm, other = make_vm("www", awake=OFFICE, time_zone="Mars/Base"), make_vm("other", "127.0.1.2", response_delay="0")
    async with running_vmd(tmp_path, vm, other) as vmd:
        with pytest.raises(Unavailable, match="time_zone: no time zone is called 'Mars/Base'"):
            await vmd.summoned(Summon(vm=vm.uuid))
        await vmd.summoned(Summon(vm=other.uuid))


async def test_a_vm_that_waits_for_room_and_falls_asleep_is_refused_but_not_an_operators_start(tmp_path: Path) -> None:
    first, second = make_vm("first", response_delay="0"), make_vm("second", "127.0.1.2", response_delay="0")
    async with running_vmd(tmp_path, first, second, hypervisor__max_running="1") as vmd:
        await vmd.summoned(Summon(vm=first.uuid))
        waiting = asyncio.ensure_future(refused(vmd, Summon(vm=second.uuid, trigger="traffic")))
        await vmd.until(lambda: any(each.wants_room for each in vmd.listed()))
        vmd.configure(first, make_vm("second", "127.0.1.2", response_delay="0", asleep="00:00-24:00"))
        assert await waiting == "second is asleep, by its schedule"


async def refused(vmd: Any, request: Summon) -> str:
    try:
        await vmd.summoned(request)
    except JitsuError as error:
        return str(error)
    return ""
