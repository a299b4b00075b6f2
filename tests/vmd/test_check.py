"""`jitsu-vmd --check`: which hypervisors are opened for it, and what becomes of one that does not answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from jitsu_protocol.model.errors import Refused, Unavailable
from jitsu_protocol.model.hypervisors import HypervisorKind
from jitsu_vmd.hypervisor import Examined, Hypervisor
from jitsu_vmd.wires.check import looked_at
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_protocol.model.vm import VM

WWW, API = make_vm("www"), make_vm("api", "127.0.1.2", hypervisor="far")


class Looking:
    """A hypervisor that only looks; anything else would fail."""

    def __init__(self, name: str, found: Examined, trouble: str = "") -> None:
        self.name, self._found, self._trouble = name, found, trouble
        self.opened = False

    async def open(self) -> None:
        self.opened = True
        if self._trouble:
            raise Unavailable(self._trouble)

    def check(self, vm: VM) -> None:
        if vm.config.get("kernel"):
            raise Refused("kernel: there is no file /k")

    async def examine(self, vms: Sequence[VM]) -> dict[str, Examined]:
        return {vm.uuid: self._found for vm in vms}


@pytest.mark.parametrize(
    ("kind", "opened"),
    [
        (HypervisorKind.MOCK, False),
        (HypervisorKind.BRIDGE, False),
        (HypervisorKind.SOLO5, False),
        (HypervisorKind.LIBVIRT, True),
    ],
)
async def test_only_what_starts_nothing_is_opened(kind: HypervisorKind, opened: bool) -> None:
    near = Looking("near", Examined("disk: there is no file /d", writes_to_disk=True))
    found = await looked_at({"": cast("Hypervisor", near)}, {"": kind}, [WWW])
    assert near.opened is opened
    assert found == {
        "refusals": {WWW.uuid: "disk: there is no file /d"},
        "writes_to_disk": {WWW.uuid: True},
        "silent": {},
    }


async def test_one_hypervisor_that_is_silent_does_not_keep_the_others_from_being_asked() -> None:
    near, far = Looking("near", Examined()), Looking("far", Examined(), "no route to host")
    both = {"": cast("Hypervisor", near), "far": cast("Hypervisor", far)}
    vms = [make_vm("www", kernel="/k"), API, make_vm("old", "127.0.1.3", hypervisor="gone")]
    found = await looked_at(both, {"": HypervisorKind.LIBVIRT, "far": HypervisorKind.XAPI}, vms)
    assert found["silent"] == {"far": "no route to host"}
    assert found["refusals"] == {
        vms[0].uuid: "kernel: there is no file /k",
        vms[2].uuid: "hypervisor: gone is not listed in hypervisor.connections",
    }
