"""One VM in a played world: its calls, its watches, and those who wait for it, on virtual time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from jitsu_protocol.messages import (
    Arm,
    CancelDrain,
    Disarm,
    Done,
    Drain,
    HandedOver,
    OperatorStop,
    StopDrained,
    Summon,
    Trace,
    VmStateChanged,
)
from jitsu_protocol.model.errors import BootFailed, NotFound, Refused, Unavailable
from jitsu_protocol.model.states import VmState
from jitsu_vmd.hypervisor import Guest, Nic
from jitsu_vmd.rules.events import GuestState
from tests.support.vmd import running_vmd
from tests.support.vms import make_vm
from tests.support.world import settled

if TYPE_CHECKING:
    from pathlib import Path

    from jitsu_protocol.model.vm import VM


class Synjitsu:
    """Acknowledges what vmd asks of it, and notes it."""

    def __init__(self, note: str = "") -> None:
        self.note = note
        self.armed: list[Arm] = []
        self.disarmed: list[Disarm] = []

    def arm(self, request: Arm) -> Done:
        self.armed.append(request)
        return Done(note=self.note)

    def disarm(self, request: Disarm) -> Done:
        self.disarmed.append(request)
        return Done()


def play(vmd: Any, note: str = "") -> Synjitsu:
    """Let a Synjitsu be there."""
    synjitsu = Synjitsu(note)
    vmd.world.answers |= {Arm: synjitsu.arm, Disarm: synjitsu.disarm}
    return synjitsu


async def test_an_armed_vm_is_answered_early_and_ready_once_synjitsu_has_handed_over(tmp_path: Path) -> None:
    vm = make_vm(use_synjitsu="true", response_delay="0")
    async with running_vmd(tmp_path, vm) as vmd:
        synjitsu = play(vmd)
        reply: Any = await vmd.summoned(Summon(vm=vm.uuid))
        assert (reply.armed, reply.addresses) == (True, ["127.0.1.1"])
        await vmd.becomes("www", VmState.BOOTING)
        await vmd.pass_time(2.5)
        assert [each.is_there for each in synjitsu.armed] == [False, True, True], "it is asked again while it boots"
        vmd.daemon.handed_over(HandedOver(vm=vm.uuid))
        await vmd.until(lambda: synjitsu.disarmed)
        assert synjitsu.disarmed[0].outcome == "ready"
        assert vmd.status()["www"][0] is VmState.READY
        await vmd.pass_time(5.0)
        assert len(synjitsu.armed) == 3, "and not after that"


async def test_a_boot_that_fails_names_what_synjitsu_has_noted(tmp_path: Path) -> None:
    vm = make_vm(use_synjitsu="true", boot_limit="3")
    async with running_vmd(tmp_path, vm) as vmd:
        synjitsu = play(vmd, note="the guest announces 10.0.0.7")
        await vmd.summoned(Summon(vm=vm.uuid))
        await vmd.becomes("www", VmState.FAILED)
        assert vmd.status()["www"][1] == "not ready 3 s after its start: the guest announces 10.0.0.7"
        await vmd.until(lambda: synjitsu.disarmed)
        assert [each.outcome for each in synjitsu.disarmed] == ["failed"]


async def test_a_synjitsu_that_is_not_there_leaves_the_boot_to_the_delay(tmp_path: Path) -> None:
    vm = make_vm(use_synjitsu="true", response_delay="0.5")
    async with running_vmd(tmp_path, vm) as vmd:
        with structlog.testing.capture_logs() as logged:
            reply: Any = await vmd.summoned(Summon(vm=vm.uuid))
        assert not reply.armed
        assert "Synjitsu is not armed: the boot is hidden by delay" in [line["event"] for line in logged]


async def test_a_synjitsu_that_goes_away_during_the_boot_leaves_it_to_the_delay(tmp_path: Path) -> None:
    vm = make_vm(use_synjitsu="true", response_delay="0.5")
    async with running_vmd(tmp_path, vm) as vmd:
        play(vmd)
        await vmd.summoned(Summon(vm=vm.uuid))
        vmd.world.answers.clear()
        await vmd.becomes("www", VmState.READY)


async def test_a_port_is_watched_until_it_accepts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vm, accepts = make_vm(wait_for_port="80", response_delay="0"), asyncio.Event()
    monkeypatch.setattr("jitsu_vmd.wires.vm.wait_for_port", lambda *_: accepts.wait())
    async with running_vmd(tmp_path, vm) as vmd:
        waits = asyncio.ensure_future(vmd.summoned(Summon(vm=vm.uuid)))
        await vmd.becomes("www", VmState.BOOTING)
        await vmd.pass_time(5.0)
        assert not waits.done()
        accepts.set()
        await waits


async def test_a_watch_ends_with_the_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vm, ended = make_vm(wait_for_port="80", boot_limit="3"), asyncio.Event()

    async def wait_for_port(*_: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr("jitsu_vmd.wires.vm.wait_for_port", wait_for_port)
    async with running_vmd(tmp_path, vm) as vmd:
        with pytest.raises(BootFailed, match="not ready 3 s after its start"):
            await vmd.summoned(Summon(vm=vm.uuid))
        await vmd.until(ended.is_set)
        assert vmd.hypervisor.calls[-1] == ("destroy", "www")


async def test_a_drain_is_approved_cancelled_and_refused(tmp_path: Path) -> None:
    vm = make_vm(response_delay="0", idle_timeout="1", ttl="1")
    async with running_vmd(tmp_path, vm) as vmd:
        await vmd.summoned(Summon(vm=vm.uuid))
        with pytest.raises(Refused, match="is not idle"):
            vmd.daemon.drain(Drain(vm=vm.uuid))
        await vmd.pass_time(3.0)
        first = vmd.daemon.drain(Drain(vm=vm.uuid)).drain
        vmd.daemon.cancel_drain(CancelDrain(vm=vm.uuid, drain=first))
        with pytest.raises(Refused, match="that drain is over"):
            vmd.daemon.stop_drained(StopDrained(vm=vm.uuid, drain=first))
        second = vmd.daemon.drain(Drain(vm=vm.uuid)).drain
        vmd.daemon.stop_drained(StopDrained(vm=vm.uuid, drain=second))
        await vmd.becomes("www", VmState.OFF)


async def test_who_waits_for_admission_is_told_why_at_the_end_of_its_patience_and_the_vm_keeps_its_turn(
    tmp_path: Path,
) -> None:
    first, second = make_vm("first", response_delay="0"), make_vm("second", "127.0.1.2", response_delay="0")
    async with running_vmd(tmp_path, first, second, hypervisor__max_running="1") as vmd:
        await vmd.summoned(Summon(vm=first.uuid))
        begun = vmd.world.clock.now()
        with pytest.raises(Unavailable, match=r"second waits for room: 1 VMs are running \(hypervisor.max_running\)"):
            await vmd.summoned(Summon(vm=second.uuid))
        assert vmd.world.clock.now() - begun == pytest.approx(second.max_wait - 0.1, abs=0.1)
        assert vmd.daemon.notes()[-1] == "1 VMs wait for room to start"
        await vmd.daemon.operator_stop(OperatorStop(vm=first.uuid))
        await vmd.becomes("second", VmState.READY)


async def test_other_limits_count_at_once(tmp_path: Path) -> None:
    first, second = make_vm("first", response_delay="0"), make_vm("second", "127.0.1.2", response_delay="0")
    async with running_vmd(tmp_path, first, second, hypervisor__max_running="1") as vmd:
        await vmd.summoned(Summon(vm=first.uuid))
        waits = asyncio.ensure_future(vmd.summoned(Summon(vm=second.uuid)))
        await vmd.pass_time(0.5)
        settings = vmd.world.settings
        more = settings.hypervisor.model_copy(update={"max_running": 2})
        vmd.daemon.reload(settings.model_copy(update={"hypervisor": more}))
        await waits


async def test_a_summon_of_a_vm_that_nobody_has_configured_is_refused_after_a_moment(tmp_path: Path) -> None:
    async with running_vmd(tmp_path) as vmd:
        begun = vmd.world.clock.now()
        with pytest.raises(NotFound, match="no VM has the uuid 'nobody'"):
            await vmd.summoned(Summon(vm="nobody"))
        assert vmd.world.clock.now() - begun == pytest.approx(0.5, abs=0.1)


async def test_a_summon_that_comes_just_before_its_vm_is_configured_starts_it(tmp_path: Path) -> None:
    vm = make_vm(response_delay="0")
    async with running_vmd(tmp_path) as vmd:
        waits = asyncio.ensure_future(vmd.summoned(Summon(vm=vm.uuid)))
        await vmd.pass_time(0.2)
        vmd.configure(vm)
        await waits


async def test_interfaces_that_are_found_are_published_and_a_removed_vm_is_gone(tmp_path: Path) -> None:
    vm = make_vm(response_delay="0", mac="02:00:5e:00:53:01")
    async with running_vmd(tmp_path, vm) as vmd:
        await vmd.summoned(Summon(vm=vm.uuid))
        await vmd.pass_time(0.1)
        nic = Nic(vm.mac, "br0", "vnet3")
        vmd.hypervisor.states[vm.uuid] = Guest(GuestState.RUNNING, nics=(nic,))
        vmd.hypervisor.changed(vm.uuid)
        await vmd.until(lambda: [each for each in changes(vmd) if each.vm.interface == "vnet3"])
        vmd.configure()
        await vmd.until(lambda: changes(vmd)[-1].gone)
        await vmd.until(lambda: vmd.hypervisor.calls[-1] == ("forget", "www"))
        timelines: Any = vmd.daemon.handlers()[Trace](Trace(vm="www"))
        assert [each.outcome for each in timelines.timelines] == ["ready"]


def changes(vmd: Any) -> list[VmStateChanged]:
    return [body for body in vmd.feed.of("vm") if isinstance(body, VmStateChanged)]


async def test_what_cannot_be_removed_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def forget(_: object) -> None:
        raise Unavailable("its save is in /var/lib/xen/save")

    vm = make_vm(response_delay="0")
    async with running_vmd(tmp_path, vm) as vmd:
        monkeypatch.setattr(vmd.hypervisor, "forget", forget)
        with structlog.testing.capture_logs() as logged:
            vmd.configure()
            await settled()
        assert ("cannot remove what was made for a VM", "its save is in /var/lib/xen/save") in [
            (line["event"], line.get("reason")) for line in logged
        ]


async def test_an_operators_stop_that_fails_says_why(tmp_path: Path) -> None:
    vm = make_vm(response_delay="0")
    async with running_vmd(tmp_path, vm) as vmd:
        await vmd.summoned(Summon(vm=vm.uuid))
        vmd.hypervisor.fails = "it hangs"
        with pytest.raises(Unavailable, match="www could not be stopped: it hangs"):
            await vmd.daemon.operator_stop(OperatorStop(vm=vm.uuid))


async def test_the_file_of_a_guest_is_written_before_the_start_call_and_removed_with_the_guest(tmp_path: Path) -> None:
    vm = make_vm(response_delay="0")
    file = tmp_path / "guests" / vm.uuid
    async with running_vmd(tmp_path, vm) as vmd:
        written: list[bool] = []
        start = vmd.hypervisor.start

        async def noted(vm: VM) -> None:
            written.append(file.exists())
            await start(vm)

        vmd.hypervisor.start = noted  # type: ignore[method-assign]
        await vmd.summoned(Summon(vm=vm.uuid))
        assert written == [True], "a vmd that is killed during the call knows how the guest was started (G7)"
        await vmd.daemon.operator_stop(OperatorStop(vm=vm.uuid))
        assert not file.exists()
