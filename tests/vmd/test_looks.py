"""How long a VM counts as up when its hypervisor knows nothing about it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from jitsu_protocol.model.errors import Unavailable
from jitsu_vmd.hypervisor import Guest
from jitsu_vmd.rules.events import GuestState
from jitsu_vmd.wires.hypervisors import Hypervisors
from jitsu_vmd.wires.looks import UNSEEN_S, Looks
from tests.support.clock import VirtualClock
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_protocol.model.vm import VM

WEB, DB = make_vm("web"), make_vm("db", "127.0.1.2")


class Cluster:
    """A cluster from which a member with one of two VMs is cut off."""

    name = "cluster"

    def __init__(self) -> None:
        self.unseen = "h2 is offline"
        self.is_silent = False

    async def guests(self, vms: Sequence[VM]) -> dict[str, Guest]:
        if self.is_silent:
            raise Unavailable("it does not answer")
        return {vm.uuid: Guest(GuestState.RUNNING, unseen=self.unseen if vm is WEB else "") for vm in vms}


class Machine:
    def __init__(self, vm: VM) -> None:
        self.vm = self.guest = vm


class Known:
    def __init__(self) -> None:
        self.machines = {vm.uuid: Machine(vm) for vm in (WEB, DB)}


async def test_a_vm_is_lost_from_sight_only_when_that_has_lasted() -> None:
    cluster, clock = Cluster(), VirtualClock()
    found: list[tuple[str, bool]] = []
    hypervisors = Hypervisors({"": cast("Any", cluster)}, asyncio.ensure_future)
    looks = Looks(
        hypervisors,
        cast("Any", Known()),
        clock,
        lambda machine, guest, _: found.append((machine.vm.name, guest is not None)),
    )

    async def look(after_s: float) -> list[tuple[str, bool]]:
        clock.advance(after_s)
        found.clear()
        await looks.at_all()
        return sorted(found)

    assert await look(0) == [("db", True)]
    assert await look(UNSEEN_S - 1) == [("db", True)]
    cluster.unseen = ""
    assert await look(0.5) == [("db", True), ("web", True)], "the database had lost its leader"
    cluster.unseen = "h2 is offline"
    assert await look(1) == [("db", True)]
    assert await look(UNSEEN_S) == [("db", True), ("web", False)]
    cluster.is_silent = True
    assert await look(100) == [], "a hypervisor that is silent changes nothing"
    cluster.is_silent = False
    assert await look(1) == [("db", True)], "and does not say how long that has been so"
    assert await look(UNSEEN_S) == [("db", True), ("web", False)]
    cluster.unseen = ""
    assert await look(1) == [("db", True), ("web", True)]
