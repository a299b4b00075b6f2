"""What hypervisors have reported about guests besides their state: network interfaces, and notes on saved state."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from jitsu_vmd.hypervisor import Nic
from jitsu_vmd.rules.interfaces import reached_at

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.hypervisor import Guest

log = structlog.get_logger("vmd")


class Sightings:
    """What was found about each guest when its hypervisor was asked last, by the VM's UUID."""

    def __init__(self) -> None:
        self._nics: dict[str, tuple[Nic, ...]] = {}
        self._notes: dict[str, str] = {}
        self._expected: set[str] = set()

    def update(self, vm: VM, guest: Guest) -> bool:
        """Keep what a look has found; return whether that has changed."""
        is_new = guest.nics != self._nics.get(vm.uuid, ()) or guest.note != self._notes.get(vm.uuid, "")
        if guest.note and guest.note != self._notes.get(vm.uuid):
            log.warning("saved state is not used", vm=vm.name, reason=guest.note)
        self._nics[vm.uuid], self._notes[vm.uuid] = guest.nics, guest.note
        return is_new

    def starts(self, vm: str) -> None:
        """Forget the names of the host's ends of a VM's interfaces: a start gives them others."""
        self._nics[vm] = tuple(replace(nic, interface="") for nic in self._nics.get(vm, ()))

    def expect(self, vm: str, *, is_known: bool) -> None:
        """Note whether the interface that a VM is about to have is known already."""
        (self._expected.add if is_known else self._expected.discard)(vm)

    def is_expected(self, vm: str) -> bool:
        """Return whether the interface of a VM that starts was known before the start."""
        return vm in self._expected

    def nic(self, vm: VM) -> Nic:
        """Return the interface at which a VM is reached, as far as it is known."""
        nics = [(nic.mac, nic.bridge, nic.interface) for nic in self._nics.get(vm.uuid, ())]
        return Nic(*reached_at(nics, vm.mac, vm.bridge))

    def note(self, vm: str) -> str:
        """Return what an operator should know about a VM's saved state."""
        return self._notes.get(vm, "")

    def forget(self, vm: str) -> None:
        """Forget a VM."""
        self._nics.pop(vm, None)
        self._notes.pop(vm, None)
        self._expected.discard(vm)
