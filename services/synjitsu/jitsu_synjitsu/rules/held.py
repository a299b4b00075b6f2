"""The VMs whose addresses are held, found by their UUID, by an IP address or by a MAC address: each frame asks here."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jitsu_synjitsu.rules.handover import Handover
from jitsu_synjitsu.rules.handover_state import GuestFacts, HandoverState
from jitsu_synjitsu.rules.macs import Macs
from jitsu_synjitsu.rules.probes import FIRST_PROBE_PORT, PROBE_PORTS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jitsu_synjitsu.rules.kept import Kept


@dataclass
class HeldVms:
    """All of one bridge."""

    kept: Kept
    lingering: set[str] = field(default_factory=set)
    """VMs that are there, but not at all of their addresses."""
    _vms: dict[str, Handover] = field(default_factory=dict, init=False)
    _by_address: dict[bytes, Handover] = field(default_factory=dict, init=False)
    _by_mac: Macs[Handover] = field(default_factory=Macs, init=False)
    _macs_of: dict[str, set[bytes]] = field(default_factory=dict, init=False)
    """VM -> its keys in `_by_mac`."""
    _ports: itertools.count[int] = field(default_factory=itertools.count, init=False)

    def __contains__(self, vm: str) -> bool:
        """Say whether addresses of a VM are held."""
        return vm in self._vms

    def get(self, vm: str) -> Handover | None:
        """Return a VM's machine."""
        return self._vms.get(vm)

    def at(self, address: bytes) -> Handover | None:
        """Return the machine of the VM that has an IP address."""
        return self._by_address.get(address)

    def of_mac(self, mac: bytes) -> Handover | None:
        """Return the machine of the VM that has a MAC address."""
        return self._by_mac.get(mac)

    def all(self) -> Iterable[Handover]:
        """Return all machines."""
        return self._vms.values()

    def macs(self) -> frozenset[bytes]:
        """Return the MAC addresses of all VMs but those that linger."""
        return frozenset(mac for mac, machine in self._by_mac.items() if machine.vm not in self.lingering)

    def macs_of(self, vm: str) -> Iterable[bytes]:
        """Return the MAC addresses of one VM."""
        return self._macs_of.get(vm, ())

    def lingering_addresses(self) -> frozenset[bytes]:
        """Return the addresses that are held of VMs that linger."""
        return frozenset(address for vm in self.lingering if vm in self._vms for address in self._vms[vm].held())

    def awaits_boot(self, vm: str) -> bool:
        """Say whether a VM's addresses are held because vmd has said that it starts it."""
        machine = self._vms.get(vm)
        if machine is None or machine.state is not HandoverState.ARMED:
            return False
        return machine.boot.is_armed and not machine.boot.is_ready

    def boot_note(self, vm: str) -> str:
        """Return why a VM that boots has not been handed over, as far as its guest's frames tell; "" if they do not."""
        machine = self._vms.get(vm)
        return "" if machine is None else machine.boot_note()

    def add(self, vm: str, addresses: tuple[bytes, ...], mac: bytes, now: float) -> Handover:
        """Hold the addresses of a VM, which nobody else may have."""
        machine = Handover(vm, addresses, GuestFacts(mac), now, self.kept, self._probe_port)
        self._vms[vm] = machine
        self._by_address.update(dict.fromkeys(addresses, machine))
        self._by_mac.put(mac, machine)
        self._macs_of[vm] = {mac}
        return machine

    def add_mac(self, machine: Handover, mac: bytes) -> None:
        """Note that a VM has another MAC address as well."""
        self._by_mac.put(mac, machine)
        self._macs_of.setdefault(machine.vm, set()).add(mac)

    def remove(self, machine: Handover) -> None:
        """Hold the addresses of a VM no longer, and drop what is kept for it."""
        self._vms.pop(machine.vm, None)
        self.lingering.discard(machine.vm)
        self.kept.take(machine.vm)
        for address in machine.addresses:
            if self._by_address.get(address) is machine:
                del self._by_address[address]
        for mac in self._macs_of.pop(machine.vm, set()):
            self._by_mac.drop(mac, machine)

    def _probe_port(self) -> int:
        return FIRST_PROBE_PORT + next(self._ports) % PROBE_PORTS
