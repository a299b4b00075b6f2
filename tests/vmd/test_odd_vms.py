"""G9: whatever one VM is configured to be, vmd starts the others."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Never

import pytest
from hypothesis import given, settings

from jitsu_protocol.messages import Summon
from jitsu_protocol.model.errors import Unavailable
from jitsu_protocol.model.states import VmState
from jitsu_vmd import main
from jitsu_vmd.wires.learn import check
from tests.support.examples import examples
from tests.support.odd_vms import FIRST, GOOD, odd_vms, told_of
from tests.support.vmd import PlayedHypervisor, PlayedStore, running_vmd, vmd_world
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from collections.abc import Callable

    from jitsu_protocol.model.vm import VM


async def _started(directory: Path, odd: VM) -> None:
    async with running_vmd(directory, hypervisor__max_memory="9999999") as vmd:
        good, odd = (vm.model_copy(update={"wake_on_traffic": False}) for vm in (GOOD, odd))  # there is no Synjitsu
        inventory, changes = told_of(partial(check, ""), good, odd)
        vmd.daemon.configure(changes)
        await vmd.daemon.looks.at_all()
        await vmd.summoned(Summon(vm=GOOD.uuid))
        states = vmd.status()
        assert states["good"] == (VmState.READY, "")
        assert ("odd" in states) is (odd.uuid in inventory.vms)
        assert len(inventory.notes(inventory.refused)) == (odd.uuid not in inventory.vms)


@settings(max_examples=examples(100), deadline=None)
@given(odd_vms().filter(lambda vm: vm.uuid == FIRST))
def test_g9_whatever_one_vm_is_the_others_are_started(odd: VM) -> None:
    with TemporaryDirectory() as directory:
        asyncio.run(_started(Path(directory), odd))


@pytest.mark.parametrize("error", [ValueError("no number"), KeyError("x"), OSError(13, "Permission denied")])
async def test_g9_a_vm_of_which_its_hypervisor_can_make_nothing_is_refused_and_the_others_start(
    tmp_path: Path, error: Exception
) -> None:
    good, odd = make_vm("good", response_delay="0"), make_vm("odd", "127.0.1.2", response_delay="0")
    async with running_vmd(tmp_path) as vmd:

        def check(vm: VM) -> None:
            if vm == odd:
                raise error

        vmd.hypervisor.check = check  # type: ignore[method-assign]
        vmd.configure(odd, good)
        await vmd.daemon.looks.at_all()
        await vmd.summoned(Summon(vm=good.uuid))
        with pytest.raises(Unavailable, match="odd: its configuration cannot be used: "):
            await vmd.summoned(Summon(vm=odd.uuid))


class Followed(Exception):
    """What the test asks for has been seen."""


async def test_vmd_leaves_out_a_vm_of_its_own_host_with_which_it_cannot_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks: list[Callable[[VM], object]] = []

    async def follow(*_: object, check: Callable[[VM], object], **__: object) -> Never:
        checks.append(check)
        raise Followed

    monkeypatch.setattr(main, "follow_vms", follow)
    monkeypatch.setattr(main, "hypervisors_for", lambda _: {"": PlayedHypervisor()})
    async with vmd_world(tmp_path) as world:
        PlayedStore(world, {})
        with pytest.raises(Followed):
            await main.start(world)
    odd = GOOD.model_copy(update={"boot_limit": float("inf")})
    inventory, _ = told_of(checks[0], odd)
    assert inventory.refused == {GOOD.uuid: "boot_limit: inf is not a duration; use seconds from 0 to 315360000"}
    inventory, _ = told_of(checks[0], odd.model_copy(update={"host": "elsewhere"}))
    assert inventory.refused == {}
