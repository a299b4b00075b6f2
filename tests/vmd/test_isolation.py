"""One hypervisor that is silent, and one VM at which looking fails, hide nothing else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest
from structlog.testing import capture_logs

from jitsu_protocol.model.errors import Unavailable
from jitsu_vmd.hypervisor import Guest
from jitsu_vmd.rules.events import GuestState
from jitsu_vmd.wires.hypervisors import Hypervisors
from jitsu_vmd.wires.isolation import MAX_LOOKS
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jitsu_protocol.model.vm import VM

VMS = [make_vm(f"vm{n}", f"127.0.1.{n + 1}") for n in range(100)]


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[Any]]:
    """Keep what is logged: to print a traceback takes structlog seconds if nobody has configured it."""
    with capture_logs() as entries:
        yield entries


class Fragile:
    """A hypervisor whose look breaks if an odd VM is among those that it is asked for."""

    name = "fragile"

    def __init__(self, *odd: VM) -> None:
        self.odd = list(odd)
        self.error: Exception = KeyError("MAC")
        self.looks: list[int] = []

    async def guests(self, vms: Sequence[VM]) -> dict[str, Guest]:
        self.looks.append(len(vms))
        if any(vm in self.odd for vm in vms):
            raise self.error
        return {vm.uuid: Guest(GuestState.RUNNING) for vm in vms}


def hypervisors_with(backend: Fragile) -> Hypervisors:
    return Hypervisors({"": cast("Any", backend)}, asyncio.ensure_future)


async def test_a_vm_at_which_looking_fails_hides_no_other_vm(logged: list[Any]) -> None:
    backend = Fragile(VMS[17])
    made = hypervisors_with(backend)
    guests, heard = await made.guests(VMS)
    assert heard == {vm.uuid for vm in VMS} - {VMS[17].uuid}
    assert guests.keys() == heard
    assert made.notes() == ["hypervisor fragile"], "it is not silent"
    made.check_answers(VMS[0])
    assert [(each["event"], each.get("vm")) for each in logged] == [
        ("hypervisor call failed unexpectedly", None),
        ("looking at this VM fails: its state is not known", "vm17"),
    ]
    with pytest.raises(Unavailable, match="vm17: its hypervisor does not answer: KeyError: 'MAC'"):
        made.check_answers(VMS[17])


async def test_a_vm_that_was_found_odd_costs_one_look_more_from_then_on_and_is_heard_when_it_is_repaired() -> None:
    backend = Fragile(VMS[17])
    made = hypervisors_with(backend)
    await made.guests(VMS)
    backend.looks.clear()
    await made.guests(VMS)
    assert backend.looks == [99, 1]
    backend.odd.clear()
    assert (await made.guests(VMS))[1] == {vm.uuid for vm in VMS}
    made.check_answers(VMS[17])


async def test_a_hypervisor_whose_every_look_fails_is_silent_and_is_not_asked_for_ever() -> None:
    backend = Fragile(*VMS)
    made = hypervisors_with(backend)
    assert await made.guests(VMS) == ({}, set())
    assert len(backend.looks) <= MAX_LOOKS
    assert made.notes() == ["hypervisor fragile does not answer: KeyError: 'MAC'"]


async def test_a_hypervisor_that_says_it_is_away_is_believed_at_once() -> None:
    backend = Fragile(VMS[17])
    backend.error = Unavailable("no libvirtd")
    made = hypervisors_with(backend)
    assert await made.guests(VMS) == ({}, set())
    assert backend.looks == [100]
    assert made.notes() == ["hypervisor fragile does not answer: no libvirtd"]


async def test_a_hypervisor_with_no_vms_that_breaks_is_silent() -> None:
    backend = Fragile()
    made = hypervisors_with(backend)

    async def breaks(vms: Sequence[VM]) -> dict[str, Guest]:
        raise KeyError("driver")

    backend.guests = breaks  # type: ignore[method-assign]
    await made.guests([])
    assert made.notes() == ["hypervisor fragile does not answer: KeyError: 'driver'"]


async def test_vms_of_which_the_hypervisor_says_that_nothing_is_known_cost_no_further_look(logged: list[Any]) -> None:
    class CutOff(Fragile):
        """A cluster from which a member with half of the VMs is cut off."""

        async def guests(self, vms: Sequence[VM]) -> dict[str, Guest]:
            self.looks.append(len(vms))
            half = VMS[:50]
            return {vm.uuid: Guest(unseen="h2 is offline" if vm in half and self.odd else "") for vm in vms}

    backend = CutOff(VMS[0])
    made = hypervisors_with(backend)
    for _ in range(2):
        guests, heard = await made.guests(VMS)
        assert heard == guests.keys() == {vm.uuid for vm in VMS[50:]}
    assert backend.looks == [100, 100]
    assert made.notes() == ["hypervisor fragile"]
    assert len(logged) == 50, "each is logged once"
    with pytest.raises(Unavailable, match="vm3: h2 is offline"):
        made.check_answers(VMS[3])
    guests, heard = await made.guests(VMS[:3])
    assert not heard, "and it is not taken for a hypervisor that is silent"
    assert not made.connections[""].trouble
    backend.odd.clear()
    assert (await made.guests(VMS))[1] == {vm.uuid for vm in VMS}
    made.check_answers(VMS[3])
