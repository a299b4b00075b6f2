"""What vmd does with VMs that an operator keeps up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.messages import Drain, Summon
from jitsu_protocol.model.errors import Refused
from jitsu_protocol.model.holds import ALL, KEEP_ROOT, path_of
from jitsu_protocol.model.states import VmState
from jitsu_vmd.rules.events import (
    DrainRequested,
    GuestSeen,
    GuestState,
    OrdersChanged,
    StartGuest,
    StartReturned,
    StopApproved,
    StopGuest,
    StopRequested,
    SummonRequested,
)
from jitsu_vmd.rules.orders import Orders
from jitsu_vmd.rules.summon import VmMachine
from jitsu_vmd.rules.vm.parts import Terms
from tests.support.vmd import running_vmd
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from pathlib import Path

KEPT = "kept up by operator:anna"


def ready() -> VmMachine:
    machine = VmMachine(Terms(make_vm(response_delay="0", ttl="1", evict="true")))
    machine.handle(GuestSeen(GuestState.OFF, 0.0), 0.0)
    (start,) = [each for each in machine.handle(SummonRequested("dns"), 1.0) if isinstance(each, StartGuest)]
    machine.handle(StartReturned(start.call), 1.0)
    assert machine.state is VmState.READY
    return machine


def test_a_vm_that_is_kept_up_drains_only_for_another_that_waits_for_room() -> None:
    machine = ready()
    machine.handle(OrdersChanged(Orders(kept=KEPT)), 2.0)
    with pytest.raises(Refused, match="www is kept up by operator:anna"):
        machine.handle(DrainRequested(), 500.0)
    machine.handle(DrainRequested(for_room=True), 500.0)
    assert machine.state is VmState.DRAINING


def test_a_keep_ends_a_drain() -> None:
    machine = ready()
    machine.handle(DrainRequested(), 500.0)
    drain = machine.drains.current
    machine.handle(OrdersChanged(Orders(kept=KEPT)), 501.0)
    assert machine.state is VmState.READY
    with pytest.raises(Refused):
        machine.handle(StopApproved(drain), 501.1)


def test_a_vm_that_is_kept_up_no_longer_is_idle_as_any_other() -> None:
    machine = ready()
    machine.handle(OrdersChanged(Orders(kept=KEPT)), 2.0)
    machine.handle(OrdersChanged(Orders()), 500.0)
    machine.handle(DrainRequested(), 501.0)
    assert machine.state is VmState.DRAINING


def test_an_operator_stops_a_vm_that_is_kept_up() -> None:
    machine = ready()
    machine.handle(OrdersChanged(Orders(kept=KEPT)), 2.0)
    assert any(isinstance(each, StopGuest) for each in machine.handle(StopRequested(), 3.0))


async def test_vmd_publishes_who_keeps_a_vm_up_until_that_is_over(tmp_path: Path) -> None:
    vm, other = make_vm("www"), make_vm("other", "127.0.1.2")
    async with running_vmd(tmp_path, vm, other) as vmd:
        await vmd.summoned(Summon(vm=vm.uuid))
        until = vmd.world.clock.wall() + 1000.0
        vmd.daemon.orders.holds.heard({path_of(vm.uuid, KEEP_ROOT): f"{until:.0f} operator:anna a demonstration"})
        machines = vmd.daemon.fleet.machines
        assert machines[vm.uuid].terms.orders.kept.startswith("kept up until 2")
        assert machines[vm.uuid].terms.orders.kept.endswith(" by operator:anna: a demonstration")
        assert (machines[vm.uuid].terms.orders.hold, machines[other.uuid].terms.orders.kept) == ("", "")
        await vmd.pass_time(900.0)
        with pytest.raises(Refused, match="www is kept up until"):
            vmd.daemon.drain(Drain(vm=vm.uuid))
        await vmd.pass_time(101.0)
        assert machines[vm.uuid].terms.orders.kept == ""
        vmd.daemon.drain(Drain(vm=vm.uuid))


async def test_a_vm_that_comes_later_is_kept_up_too_and_no_keep_is_for_all(tmp_path: Path) -> None:
    vm, other = make_vm("www"), make_vm("other", "127.0.1.2")
    async with running_vmd(tmp_path, other) as vmd:
        vmd.daemon.orders.holds.heard({path_of(vm.uuid, KEEP_ROOT): "0 anna", path_of(ALL, KEEP_ROOT): "0 anna"})
        vmd.configure(other, vm)
        kept = {machine.vm.name: machine.terms.orders.kept for machine in vmd.daemon.fleet.machines.values()}
        assert kept == {"www": "kept up by anna", "other": ""}
