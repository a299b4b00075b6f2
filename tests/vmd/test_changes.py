"""What becomes of a guest that runs when its VM is configured otherwise: each row of docs/reference/changes.md."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog

from jitsu_protocol.messages import OperatorStop, StartDiscarding, Summon
from jitsu_protocol.model.errors import BootFailed, Unavailable
from jitsu_protocol.model.states import VmState
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_vmd.rules.events import (
    GuestSeen,
    GuestState,
    Reconfigured,
    StartGuest,
    StartReturned,
    StopGuest,
    StopReturned,
    SummonAgain,
    SummonRequested,
)
from jitsu_vmd.rules.summon import VmMachine
from jitsu_vmd.rules.vm.parts import Terms
from jitsu_vmd.rules.vm.stops import STOP_AGAIN_S
from jitsu_vmd.wires.started import StartedFiles
from tests.support.vmd import running_vmd
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_protocol.model.vm import VM

UUID = "fc85d032-e9b7-5961-bf65-70d68caa284b"
STOPPED = "stopped as what it was started as"
RUNS_ON = "runs on"

# The row in the page -> the VM's keys before, and after.
ROWS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "`ip`": ({"ip": "127.0.4.1"}, {"ip": "127.0.4.9"}),
    "`mac`": ({"mac": "02:00:5e:00:53:01"}, {"mac": "02:00:5e:00:53:02"}),
    "`nic`": ({"nic": "br0"}, {"nic": "br1"}),
    "`name`": ({"name": "one"}, {"name": "two"}),
    "`container`": ({"container": "one"}, {"container": "two"}),
    "`hypervisor`": ({}, {"hypervisor": "second"}),
    "`memory`, `vcpus`": ({"memory": "1024"}, {"memory": "2048"}),
    "`kernel`, `initrd`, `cmdline`, `domain_xml`, `script`, `guest_type`": ({"kernel": "/a"}, {"kernel": "/b"}),
    "`disk`": ({"disk": "/a.qcow2"}, {"disk": "/b.qcow2"}),
    "`stop_mode`": ({"stop_mode": "destroy"}, {"stop_mode": "suspend"}),
    "`dns`, `alias`, `ttl`": ({"ttl": "60"}, {"ttl": "30"}),
    "`idle_timeout`, `evict`, `priority`, `max_idle_connection`": ({"idle_timeout": "600"}, {"idle_timeout": "900"}),
    "`wait_for_port`, `wait_for_key`, `ready`, `response_delay`, `use_synjitsu`, `answer`, `handover`, `boot_limit`": (
        {"response_delay": "0"},
        {"response_delay": "1"},
    ),
}
_STOPS = {"`ip`", "`mac`", "`nic`", "`name`", "`container`", "`hypervisor`"}


def vm_with(**keys: str) -> VM:
    return make_vm(keys.pop("name", "www"), keys.pop("ip", "127.0.4.1"), uuid=UUID, **keys)


def ready(vm: VM) -> VmMachine:
    machine = VmMachine(Terms(vm.model_copy(update={"response_delay": 0.0})))
    machine.handle(GuestSeen(GuestState.OFF, 0.0), 0.0)
    (start,) = [each for each in machine.handle(SummonRequested("dns"), 1.0) if isinstance(each, StartGuest)]
    machine.handle(StartReturned(start.call), 1.0)
    assert machine.state is VmState.READY
    return machine


def stops(actions: Sequence[object]) -> list[StopMode]:
    return [action.mode for action in actions if isinstance(action, StopGuest)]


def test_the_page_has_each_of_these_rows_and_says_what_becomes_of_the_guest() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/changes.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert {row[0] for row in rows} == set(ROWS)
    assert {row[0] for row in rows if STOPPED in row[1]} == _STOPS
    assert all(RUNS_ON in row[1] for row in rows if row[0] not in _STOPS)


@pytest.mark.parametrize("row", ROWS)
def test_a_change_of_what_a_guest_is_stops_it_and_nothing_else_does(row: str) -> None:
    before, after = (vm_with(**keys) for keys in ROWS[row])
    machine = ready(before)
    actions = machine.handle(Reconfigured(after), 2.0)
    assert bool(stops(actions)) is (row in _STOPS)
    assert machine.state is (VmState.STOPPING if row in _STOPS else VmState.READY)
    assert set(machine.guest.addresses) == set(before.addresses), "it is stopped by what it was started as"
    if row in _STOPS:
        (stop,) = [action for action in actions if isinstance(action, StopGuest)]
        machine.handle(StopReturned(stop.call), 3.0)
        assert (machine.state, machine.guest) == (VmState.OFF, after)


@pytest.mark.parametrize("mode", StopMode)
def test_a_guest_that_may_not_run_on_leaves_no_saved_state_with_its_old_address(mode: StopMode) -> None:
    machine = ready(vm_with(stop_mode=mode.value))
    used = StopMode.SHUTDOWN if mode in (StopMode.SUSPEND, StopMode.PAUSE) else mode
    assert stops(machine.handle(Reconfigured(vm_with(ip="127.0.4.9", stop_mode=mode.value)), 2.0)) == [used]


def test_a_guest_that_boots_is_stopped_and_whoever_waits_is_answered_by_the_next_boot() -> None:
    machine = VmMachine(Terms(vm_with(response_delay="5")))
    machine.handle(GuestSeen(GuestState.OFF, 0.0), 0.0)
    (start,) = [each for each in machine.handle(SummonRequested("dns"), 1.0) if isinstance(each, StartGuest)]
    new = vm_with(ip="127.0.4.9", response_delay="5")
    assert stops(machine.handle(Reconfigured(new), 1.5)) == [], "the start call is under way: it has to return first"
    (stop,) = [each for each in machine.handle(StartReturned(start.call), 2.0) if isinstance(each, StopGuest)]
    actions = machine.handle(StopReturned(stop.call), 2.5)
    assert [action.event.trigger for action in actions if isinstance(action, SummonAgain)] == ["dns"]
    assert machine.guest is new


def test_a_stop_that_fails_is_tried_again_after_a_while() -> None:
    machine = ready(vm_with())
    actions = machine.handle(Reconfigured(vm_with(ip="127.0.4.9")), 2.0)
    (stop,) = [each for each in actions if isinstance(each, StopGuest)]
    machine.handle(StopReturned(stop.call, BootFailed("it hangs")), 3.0)
    assert machine.state in (VmState.BOOTING, VmState.READY)
    assert stops(machine.tick(3.0 + STOP_AGAIN_S - 0.1)) == []
    assert machine.deadline() == 3.0 + STOP_AGAIN_S
    assert stops(machine.tick(3.0 + STOP_AGAIN_S)) == [StopMode.DESTROY]


def test_a_key_that_is_put_back_before_the_stop_lets_the_guest_run_on() -> None:
    before = vm_with()
    machine = ready(before)
    actions = machine.handle(Reconfigured(vm_with(ip="127.0.4.9")), 2.0)
    (stop,) = [each for each in actions if isinstance(each, StopGuest)]
    machine.handle(StopReturned(stop.call, BootFailed("it hangs")), 3.0)
    machine.handle(Reconfigured(before), 3.5)
    assert stops(machine.tick(3.0 + STOP_AGAIN_S)) == []


@pytest.mark.parametrize("state", [GuestState.SUSPENDED, GuestState.PAUSED])
async def test_saved_state_with_another_address_is_never_restored_and_the_reason_is_given(
    tmp_path: Path, state: GuestState
) -> None:
    mode = "suspend" if state is GuestState.SUSPENDED else "pause"
    old, new = (vm_with(ip=ip, stop_mode=mode, response_delay="0") for ip in ("127.0.4.1", "127.0.4.9"))
    async with running_vmd(tmp_path, old) as vmd:
        await vmd.summoned(Summon(vm=UUID))
        await vmd.daemon.operator_stop(OperatorStop(vm=UUID))
        with structlog.testing.capture_logs() as logged:
            vmd.configure(new)
        told = [(line["event"], line["hint"]) for line in logged if line["log_level"] == "warning"]
        assert told == [
            (
                "its saved state is not used, because the VM is configured otherwise now",
                "jitsu start www --discard-saved-state boots it as it is configured now",
            )
        ]
        with pytest.raises(Unavailable, match=r"127\.0\.4\.1, configured is 127\.0\.4\.9"):
            await vmd.summoned(Summon(vm=UUID))
        assert "127.0.4.1" in vmd.status()["www"][1]
        await vmd.summoned(StartDiscarding(vm=UUID))
        assert [call for call, _ in vmd.hypervisor.calls] == ["start", mode, "discard", "start"]
        assert vmd.hypervisor.started_as[-1] == new


async def test_vms_that_swap_their_addresses_never_have_the_same_one_at_once(tmp_path: Path) -> None:
    one, two = make_vm("one", "127.0.4.1", response_delay="0"), make_vm("two", "127.0.4.2", response_delay="0")
    new_one = make_vm("one", "127.0.4.2", response_delay="0", uuid=one.uuid)
    new_two = make_vm("two", "127.0.4.1", response_delay="0", uuid=two.uuid)
    async with running_vmd(tmp_path, one, two) as vmd:
        for vm in (one, two):
            await vmd.summoned(Summon(vm=vm.uuid))
        vmd.hypervisor.goes_on.clear()
        vmd.configure(new_one, new_two)
        waits = asyncio.ensure_future(vmd.summoned(Summon(vm=one.uuid, trigger="operator")))
        await vmd.until(lambda: len(vmd.hypervisor.calls) == 4)
        vmd.hypervisor.goes_on.set()
        await waits
        assert vmd.hypervisor.calls.index(("destroy", "two")) < vmd.hypervisor.calls.index(("start", "one"), 2)
        assert vmd.hypervisor.started_as[-1] == new_one


@pytest.mark.parametrize("change", ["another address", "removed", "nothing"])
async def test_g7_what_changed_while_vmd_was_down_is_done_when_it_returns(tmp_path: Path, change: str) -> None:
    old = vm_with(response_delay="0")
    async with running_vmd(tmp_path, old) as vmd:
        await vmd.summoned(Summon(vm=UUID))
    now = {"another address": [vm_with(ip="127.0.4.9")], "removed": [], "nothing": [old]}[change]
    async with running_vmd(tmp_path, *now, runs=UUID) as vmd:
        if change == "nothing":
            await vmd.becomes("www", VmState.READY)
            assert vmd.hypervisor.calls == []
        else:
            await vmd.until(lambda: UUID not in vmd.hypervisor.states)
            assert vmd.hypervisor.calls[0] == ("destroy", "www")
            assert vmd.hypervisor.stopped_as == [old]
    async with running_vmd(tmp_path, *now) as vmd:
        assert vmd.hypervisor.calls == []


async def test_the_guest_of_a_vm_that_moves_to_another_hypervisor_is_stopped_and_forgotten_on_the_first(
    tmp_path: Path,
) -> None:
    old, new = vm_with(name="one", response_delay="0"), vm_with(name="two", response_delay="0")
    async with running_vmd(tmp_path, old) as vmd:
        await vmd.summoned(Summon(vm=UUID))
        vmd.configure(new)
        await vmd.until(lambda: ("forget", "one") in vmd.hypervisor.calls)
        assert vmd.hypervisor.calls == [("start", "one"), ("destroy", "one"), ("forget", "one")]
        await vmd.summoned(Summon(vm=UUID))
        assert vmd.hypervisor.calls[-1] == ("start", "two")


def test_a_file_that_cannot_be_read_or_written_costs_only_what_it_would_have_said(tmp_path: Path) -> None:
    directory = tmp_path / "guests"
    directory.mkdir()
    (directory / UUID).write_text("{half of it")
    files = StartedFiles(directory)
    assert files.recall(UUID) is None
    (tmp_path / "a file").write_text("")
    with structlog.testing.capture_logs() as logged:
        unwritable = StartedFiles(tmp_path / "a file")
        unwritable.save(UUID, vm_with())
        unwritable.save(UUID, vm_with())
    assert [line["log_level"] for line in logged] == ["warning"]


def test_a_guest_that_may_not_run_on_and_cannot_be_stopped_is_not_answered_for() -> None:
    machine = ready(vm_with())
    actions = machine.handle(Reconfigured(vm_with(ip="127.0.4.9")), 2.0)
    (stop,) = [each for each in actions if isinstance(each, StopGuest)]
    machine.handle(StopReturned(stop.call, BootFailed("it hangs")), 3.0)
    with pytest.raises(Unavailable, match=r"started with 127\.0\.4\.1, configured is 127\.0\.4\.9"):
        machine.handle(SummonRequested("dns"), 3.1)
