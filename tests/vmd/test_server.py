"""vmd as a whole, with a hypervisor that the test plays."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from jitsu_protocol.messages import Arm, Done, Drain, HandedOver, ListVms, OperatorStop, StartDiscarding, Summon
from jitsu_protocol.model.errors import BackingOff, BootFailed, Refused, Unavailable
from jitsu_protocol.model.inventory import VmChanged
from jitsu_protocol.model.states import VmState
from jitsu_vmd.hypervisor import Guest, Nic
from jitsu_vmd.rules.events import GuestState
from jitsu_vmd.rules.summon import VmMachine
from jitsu_vmd.wires.hypervisors import Hypervisors
from jitsu_vmd.wires.passing import PASSING_S
from jitsu_vmd.wires.server import VmDaemon
from jitsu_vmd.wires.statistics import GATHER_S
from jitsu_vmd.wires.vm import LOOK_LATER_S
from tests.support.vmd import PlayedHypervisor, PlayedStore, running_vmd, vmd_world
from tests.support.vms import make_vm
from tests.support.world import settled

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from pathlib import Path

    from jitsu_protocol.messages import Message
    from jitsu_protocol.model.vm import VM


async def answer(reply: Message | Awaitable[Message]) -> object:
    return reply if not hasattr(reply, "__await__") else await reply


async def test_a_start_that_fails_leaves_a_suspended_vm_suspended_and_status_says_why(tmp_path: Path) -> None:
    vm = make_vm(response_delay="0")
    async with running_vmd(tmp_path, vm) as vmd:
        vmd.hypervisor.states[vm.uuid] = Guest(GuestState.SUSPENDED)
        vmd.hypervisor.changed(vm.uuid)
        await vmd.becomes("www", VmState.SUSPENDED)
        vmd.hypervisor.fails = "no memory"
        with pytest.raises(BootFailed, match="no memory"):
            await answer(vmd.daemon.summon(Summon(vm=vm.uuid)))
        await vmd.becomes("www", VmState.SUSPENDED)
        assert vmd.status()["www"][1] == "no memory"
        with pytest.raises(BackingOff):
            await answer(vmd.daemon.summon(Summon(vm=vm.uuid)))
        await answer(vmd.daemon.summon(Summon(vm=vm.uuid, trigger="operator")))
        assert vmd.hypervisor.calls == [("start", "www")] * 2
        assert vmd.status()["www"] == (VmState.READY, "")


async def test_saved_state_is_discarded_when_an_operator_says_so_and_not_under_a_running_vm(tmp_path: Path) -> None:
    vm = make_vm(response_delay="0")
    async with running_vmd(tmp_path, vm) as vmd:
        vmd.hypervisor.states[vm.uuid] = Guest(GuestState.OFF, note="its save was used already")
        vmd.hypervisor.changed(vm.uuid)
        await vmd.until(lambda: vmd.status()["www"] == (VmState.OFF, "its save was used already"))
        await answer(vmd.daemon.start_discarding(StartDiscarding(vm=vm.uuid)))
        assert vmd.hypervisor.calls == [("discard", "www"), ("start", "www")]
        assert vmd.status()["www"][0] is VmState.READY
        with pytest.raises(Refused, match="www is ready: its saved state is not discarded"):
            vmd.daemon.start_discarding(StartDiscarding(vm=vm.uuid))


async def test_a_stop_that_fails_halfway_is_looked_at(tmp_path: Path) -> None:
    vm = make_vm(response_delay="0", stop_mode="suspend")
    async with running_vmd(tmp_path, vm) as vmd:
        await answer(vmd.daemon.summon(Summon(vm=vm.uuid)))
        vmd.hypervisor.fails = "xl destroy: no"
        vmd.hypervisor.states[vm.uuid] = Guest(GuestState.PAUSED)  # saved, and not destroyed
        with pytest.raises(Unavailable, match="could not be stopped"):
            await vmd.daemon.operator_stop(OperatorStop(vm=vm.uuid))
        await vmd.becomes("www", VmState.PAUSED)


class Counted(dict[str, VmMachine]):
    """VMs that count how often all of them are gone through."""

    scans = 0

    def values(self) -> Any:
        type(self).scans += 1
        return super().values()

    def items(self) -> Any:
        type(self).scans += 1
        return super().items()

    def __iter__(self) -> Any:
        type(self).scans += 1
        return super().__iter__()


async def test_what_happens_to_one_vm_costs_no_look_at_the_others(tmp_path: Path) -> None:
    vms = [make_vm(f"v{n}", f"127.0.4.{n + 1}", response_delay="0", idle_timeout="60") for n in range(50)]
    limits = {"max_booting": "10", "max_running": "40", "max_memory": "99999999"}
    settings: dict[str, Any] = {f"hypervisor__{key}": value for key, value in limits.items()}
    async with running_vmd(tmp_path, *vms, **settings) as vmd:
        vmd.hypervisor.looks.clear()
        vmd.daemon.fleet.machines = Counted(vmd.daemon.fleet.machines)
        Counted.scans = 0
        await answer(vmd.daemon.summon(Summon(vm=vms[7].uuid)))
        vmd.hypervisor.changed(vms[7].uuid)
        await vmd.until(lambda: vmd.hypervisor.looks)
        await vmd.daemon.operator_stop(OperatorStop(vm=vms[7].uuid))
        vmd.hypervisor.changed(vms[7].uuid)
        await vmd.until(lambda: len(vmd.hypervisor.looks) > 1)
        assert {name for look in vmd.hypervisor.looks for name in look} == {"v7"}
        assert Counted.scans == 0


async def test_many_events_during_a_look_are_one_more_look(tmp_path: Path) -> None:
    vms = [make_vm(f"v{n}", f"127.0.4.{n + 1}") for n in range(50)]
    async with running_vmd(tmp_path, *vms) as vmd:
        vmd.hypervisor.looks.clear()
        for vm in vms:
            vmd.hypervisor.changed(vm.uuid)
        await vmd.until(lambda: vmd.hypervisor.looks)
        assert [len(look) for look in vmd.hypervisor.looks] == [50]


async def test_a_vm_that_is_new_is_published_once_when_it_is_known_what_its_guest_does(tmp_path: Path) -> None:
    async with running_vmd(tmp_path) as vmd:
        before = vmd.feed.feeds["vm"].number
        vm = make_vm("www")
        vmd.hypervisor.nics = (Nic("02:00:00:00:00:01", "br0"),)
        vmd.configure(vm)
        await vmd.becomes("www", VmState.OFF)
        await vmd.pass_time(0.1)
        assert vmd.feed.feeds["vm"].number - before == 1


async def test_starts_of_a_moment_are_recorded_together_once_their_clients_have_been_served(tmp_path: Path) -> None:
    vms = [make_vm(name, address, response_delay="0") for name, address in (("a", "127.0.4.2"), ("b", "127.0.4.3"))]
    async with running_vmd(tmp_path, *vms) as vmd:
        store = PlayedStore(vmd.world, {})
        for vm in vms:
            await answer(vmd.daemon.summon(Summon(vm=vm.uuid)))
        assert store.recorded == {}
        await vmd.pass_time(2 * GATHER_S)
        assert {path for path in store.recorded if path.endswith("total_starts")} == {
            f"jitsu/stats/{vm.uuid}/total_starts" for vm in vms
        }


async def test_a_vmd_that_stops_records_the_starts_that_it_has_not_recorded_yet(tmp_path: Path) -> None:
    vm = make_vm("www", response_delay="0")
    async with running_vmd(tmp_path, vm) as vmd:
        store = PlayedStore(vmd.world, {})
        await answer(vmd.daemon.summon(Summon(vm=vm.uuid)))
        await vmd.daemon.outside.statistics.settle()
        assert store.recorded[f"jitsu/stats/{vm.uuid}/total_starts"] == "1"


class Reserving(PlayedHypervisor):
    """One that knows the host's end of an interface before the start."""

    async def reserve(self, vm: VM) -> str:
        return f"tap-{vm.name}"


@pytest.mark.parametrize(("kind", "is_at_once"), [(PlayedHypervisor, True), (Reserving, False)])
async def test_a_guest_is_looked_at_when_it_has_started_or_later_if_its_interface_was_known_before(
    tmp_path: Path, kind: type[PlayedHypervisor], *, is_at_once: bool
) -> None:
    vm = make_vm("www", use_synjitsu="true", answer="started")
    async with running_vmd(tmp_path, vm, plays=kind) as vmd:
        vmd.world.answers[Arm] = lambda _: Done()
        vmd.hypervisor.looks.clear()
        await answer(vmd.daemon.summon(Summon(vm=vm.uuid)))
        await vmd.pass_time(LOOK_LATER_S / 2)
        assert vmd.hypervisor.looks == ([["www"]] if is_at_once else [])
        await vmd.pass_time(LOOK_LATER_S)
        assert vmd.hypervisor.looks == [["www"]]


async def test_g7_a_vm_is_summoned_before_a_vmd_that_returns_has_read_all_others(tmp_path: Path) -> None:
    vm, other = make_vm("www", response_delay="0"), make_vm("other", "127.0.4.2")
    async with vmd_world(tmp_path) as world:
        store = PlayedStore(world, {vm.uuid: 41}, vm, other)
        hypervisors = Hypervisors({"": PlayedHypervisor()}, world.spawn)
        daemon = VmDaemon(world, hypervisors, world.publish("vm"))
        daemon.orders.holds.known.set()
        world.spawn(daemon.looks.go_on())
        listing = asyncio.ensure_future(daemon.list_vms(ListVms()))
        for refused in (lambda: daemon.handed_over(HandedOver(vm=vm.uuid)), lambda: daemon.drain(Drain(vm=vm.uuid))):
            with pytest.raises(Unavailable, match="vmd has just started"):
                refused()
        await answer(daemon.summon(Summon(vm=vm.uuid)))
        assert not listing.done(), "a list without the others would say that these are gone"
        world.time.advance(GATHER_S)
        await settled()
        assert store.recorded[f"jitsu/stats/{vm.uuid}/total_starts"] == "42"
        daemon.configure([VmChanged(None, vm), VmChanged(None, other)])
        await daemon.looks.at_all()
        daemon.complete()
        states = {status.name: status.state for status in (await listing).vms}
        assert states == {"www": VmState.READY, "other": VmState.OFF}


async def test_a_vm_does_not_start_while_the_guest_of_a_removed_one_still_has_its_address(tmp_path: Path) -> None:
    old, new = make_vm("old", "127.0.4.1", response_delay="0"), make_vm("new", "127.0.4.1", response_delay="0")
    async with running_vmd(tmp_path, old) as vmd:
        await answer(vmd.daemon.summon(Summon(vm=old.uuid)))
        vmd.hypervisor.goes_on.clear()
        vmd.configure(new)
        waits = asyncio.ensure_future(answer(vmd.daemon.summon(Summon(vm=new.uuid, trigger="operator"))))
        await vmd.until(lambda: ("destroy", "old") in vmd.hypervisor.calls)
        await vmd.pass_time(5.0)
        assert ("start", "new") not in vmd.hypervisor.calls
        assert not waits.done()
        vmd.hypervisor.goes_on.set()
        await waits
        assert vmd.hypervisor.calls == [("start", "old"), ("destroy", "old"), ("forget", "old"), ("start", "new")]


async def test_a_state_that_is_passed_at_once_is_not_published(tmp_path: Path) -> None:
    vm = make_vm(response_delay="0")
    async with running_vmd(tmp_path, vm) as vmd:
        feed = vmd.feed.feeds["vm"]
        before = feed.number
        await answer(vmd.daemon.summon(Summon(vm=vm.uuid)))
        assert feed.number == before, "the client is served first"
        await vmd.pass_time(2 * PASSING_S)
        assert feed.number - before == 1, "ready; it starts and boots for no time at all"


async def test_a_state_that_lasts_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vm = make_vm(response_delay="0")
    async with running_vmd(tmp_path, vm) as vmd:
        published: list[VmState] = []
        monkeypatch.setattr(vmd.feed, "publish", lambda _, item: published.append(item.vm.state))
        vmd.hypervisor.goes_on.clear()
        summoned = asyncio.ensure_future(answer(vmd.daemon.summon(Summon(vm=vm.uuid))))
        await vmd.until(lambda: published == [VmState.STARTING])
        vmd.hypervisor.goes_on.set()
        await summoned
        await vmd.pass_time(2 * PASSING_S)
        assert published == [VmState.STARTING, VmState.READY]


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), KeyError("power_state"), Unavailable("away")])
async def test_g9_a_look_that_fails_in_whatever_way_is_a_hypervisor_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async with running_vmd(tmp_path, make_vm()) as vmd:

        async def guests(_: object) -> Any:
            raise error

        monkeypatch.setattr(vmd.hypervisor, "guests", guests)
        await vmd.daemon.looks.at_all()
        assert "does not answer" in vmd.daemon.notes()[0]
        monkeypatch.undo()
        await vmd.daemon.looks.at_all()
        assert "does not answer" not in vmd.daemon.notes()[0]


async def test_a_vm_that_waits_for_an_address_starts_as_soon_as_a_failed_guest_is_off(
    tmp_path: Path,
) -> None:
    old, new = make_vm("old", "127.0.4.1", response_delay="0"), make_vm("new", "127.0.4.1", response_delay="0")
    async with running_vmd(tmp_path, old) as vmd:
        vmd.hypervisor.states[old.uuid] = Guest(GuestState.RUNNING)  # the call fails, and leaves it running
        vmd.hypervisor.fails = "boom"
        with pytest.raises(BootFailed):
            await answer(vmd.daemon.summon(Summon(vm=old.uuid)))
        vmd.daemon.configure([VmChanged(None, new)])
        waits = asyncio.ensure_future(answer(vmd.daemon.summon(Summon(vm=new.uuid, trigger="operator"))))
        vmd.hypervisor.states.pop(old.uuid, None)
        vmd.hypervisor.changed(old.uuid)
        await waits
