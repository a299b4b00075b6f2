"""What vmd does with VMs that are held."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import zmq.asyncio

from jitsu_protocol.messages import Drain, Leaves, List, Summon
from jitsu_protocol.model.errors import JitsuError, NotFound, Refused
from jitsu_protocol.model.holds import ALL, path_of
from jitsu_protocol.model.states import VmState
from jitsu_runtime.bus.zeromq import rpc_server
from jitsu_vmd.rules.events import (
    AnswerSummons,
    DrainRequested,
    GuestSeen,
    GuestState,
    OrdersChanged,
    PublishState,
    StartGuest,
    StartReturned,
    StopApproved,
    StopGuest,
    StopRequested,
    StopReturned,
    SummonAgain,
    SummonRequested,
)
from jitsu_vmd.rules.orders import Orders
from jitsu_vmd.rules.summon import VmMachine
from jitsu_vmd.rules.vm.parts import Terms
from jitsu_vmd.wires.holds import Holds
from tests.support.process import running_process
from tests.support.vmd import running_vmd
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from pathlib import Path

    from jitsu_runtime.world import World
    from jitsu_vmd.rules.events import Action

HELD = "held by operator:anna"


def off() -> VmMachine:
    machine = VmMachine(Terms(make_vm(response_delay="0", ttl="1")))
    machine.handle(GuestSeen(GuestState.OFF, 0.0), 0.0)
    return machine


def ready(now: float = 1.0) -> VmMachine:
    machine = off()
    (start,) = of(StartGuest, machine.handle(SummonRequested("operator"), now))
    machine.handle(StartReturned(start.call), now)
    assert machine.state is VmState.READY
    return machine


def of(kind: type[Any], actions: list[Action]) -> list[Any]:
    return [action for action in actions if isinstance(action, kind)]


@pytest.mark.parametrize("trigger", ["dns", "traffic"])
def test_a_held_vm_is_started_by_operators_only(trigger: Any) -> None:
    machine = off()
    assert of(PublishState, machine.handle(OrdersChanged(Orders(hold=HELD)), 1.0))
    actions = machine.handle(SummonRequested(trigger), 1.0)
    assert of(StartGuest, actions) == []
    ((answer,)) = of(AnswerSummons, actions)
    assert isinstance(answer.error, Refused)
    assert str(answer.error) == "www is held by operator:anna"
    assert of(StartGuest, machine.handle(SummonRequested("operator"), 2.0))


def test_a_held_vm_that_is_ready_is_used_as_always_and_stopped_by_operators_only() -> None:
    machine = ready()
    machine.handle(OrdersChanged(Orders(hold=HELD)), 2.0)
    ((answer,)) = of(AnswerSummons, machine.handle(SummonRequested("dns"), 3.0))
    assert answer.error is None
    with pytest.raises(Refused, match="www is held"):
        machine.handle(DrainRequested(), 500.0)
    machine.handle(OrdersChanged(Orders()), 500.0)
    machine.handle(DrainRequested(), 501.0)
    assert machine.state is VmState.DRAINING
    stopped = ready()
    stopped.handle(OrdersChanged(Orders(hold=HELD)), 2.0)
    assert of(StopGuest, stopped.handle(StopRequested(), 3.0))


def test_a_hold_ends_a_drain() -> None:
    machine = ready()
    machine.handle(DrainRequested(), 500.0)
    drain = machine.drains.current
    machine.handle(OrdersChanged(Orders(hold=HELD)), 501.0)
    assert machine.state is VmState.READY
    with pytest.raises(Refused):
        machine.handle(StopApproved(drain), 501.1)


def test_a_boot_under_way_goes_on_and_a_query_that_came_while_stopping_starts_nothing() -> None:
    machine = off()
    (start,) = of(StartGuest, machine.handle(SummonRequested("dns"), 1.0))
    machine.handle(OrdersChanged(Orders(hold=HELD)), 1.1)
    machine.handle(StartReturned(start.call), 1.2)
    assert machine.state is VmState.READY
    (stop,) = of(StopGuest, machine.handle(StopRequested(), 2.0))
    machine.handle(SummonRequested("dns"), 2.1)
    (again,) = of(SummonAgain, machine.handle(StopReturned(stop.call), 2.2))
    assert of(StartGuest, machine.handle(again.event, 2.2)) == []
    assert str(machine.state) == "off"


# --- the daemon ---


async def test_who_waits_for_room_for_a_vm_that_becomes_held_is_refused(tmp_path: Path) -> None:
    first, second = make_vm("first", response_delay="0"), make_vm("second", "127.0.1.2", response_delay="0")
    async with running_vmd(tmp_path, first, second, hypervisor__max_running="1") as vmd:
        await vmd.summoned(Summon(vm=first.uuid))
        waiting = asyncio.ensure_future(vmd.summoned(Summon(vm=second.uuid, trigger="traffic")))
        await vmd.until(lambda: any(each.wants_room for each in vmd.listed()))
        hold(vmd, {path_of(ALL): "0 operator:anna new disk"})
        with pytest.raises(Refused, match="second is held by operator:anna: new disk"):
            await waiting
        assert [(each.hold, each.wants_room) for each in vmd.listed()] == [
            ("held by operator:anna: new disk", False)
        ] * 2
        with pytest.raises(JitsuError, match="first is held"):
            vmd.daemon.drain(Drain(vm=first.uuid))
        assert "all VMs are held by operator:anna: new disk" in vmd.daemon.notes()
        with pytest.raises(Refused):
            await vmd.summoned(Summon(vm=second.uuid, trigger="dns"))
        hold(vmd, {})
        assert {each.hold for each in vmd.listed()} == {""}


async def test_a_hold_ends_by_itself(tmp_path: Path) -> None:
    vm, other = make_vm("www"), make_vm("other", "127.0.1.2")
    async with running_vmd(tmp_path, vm, other) as vmd:
        until = vmd.world.clock.wall() + 100.0
        hold(vmd, {path_of(vm.uuid): f"{until:.0f} operator:anna"})
        assert [bool(each.hold) for each in vmd.listed()] == [True, False]
        assert vmd.listed()[0].hold.startswith("held until 2")
        await vmd.pass_time(99.0)
        assert [bool(each.hold) for each in vmd.listed()] == [True, False]
        await vmd.pass_time(1.5)
        assert [bool(each.hold) for each in vmd.listed()] == [False, False]


def hold(vmd: Any, leaves: dict[str, str]) -> None:
    """Have vmd hear which holds there are."""
    vmd.daemon.orders.holds.heard(leaves)


class OldStore:
    """A store of a release that has no feed of heads, or one that has; it has one hold."""

    def __init__(self, process: World, *, knows_heads: bool) -> None:
        self._knows_heads = knows_heads
        endpoint = str(process.settings.bus.endpoint("store", "rpc"))
        process.spawn(rpc_server(zmq.asyncio.Context.instance(), endpoint, {List: self.list}).run())

    def list(self, request: List) -> Leaves:
        if not self._knows_heads:
            raise NotFound(f"there is no feed {request.topic!r}")
        return Leaves(leaves={path_of(ALL): "0 operator:anna"}, commit="", epoch="e", number=0)


@pytest.mark.wires
@pytest.mark.parametrize("knows_heads", [True, False])
async def test_vms_start_as_ever_beside_a_store_that_knows_no_holds(tmp_path: Path, knows_heads: bool) -> None:
    async with running_process("vmd", tmp_path) as process:
        OldStore(process, knows_heads=knows_heads)
        holds = Holds(process.client("store"), lambda: None, process.clock)
        holds.follow(process)
        async with asyncio.timeout(5):
            await holds.known.wait()
        assert holds.reason("any") == ("held by operator:anna" if knows_heads else "")
