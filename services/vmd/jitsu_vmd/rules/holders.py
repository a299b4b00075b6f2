"""What each guest was started as, and so which guest has which address: no two may have the same one at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jitsu_protocol.model.states import VmState
from jitsu_vmd.rules.admission import Shortage

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ipaddress import IPv4Address, IPv6Address

    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.rules.summon import VmMachine


@dataclass
class Holders:
    """The guests that were started and are not known to be off."""

    _started: dict[str, VM] = field(default_factory=dict)
    _by_address: dict[IPv4Address | IPv6Address, str] = field(default_factory=dict)

    def started(self, vm: str) -> VM | None:
        """Return what a VM's guest was started as; None if it is off."""
        return self._started.get(vm)

    def note(self, vm: str, started: VM | None) -> None:
        """Note what a VM's guest was started as, or that it is off."""
        if (before := self._started.pop(vm, None)) is not None:
            for address in before.addresses:
                if self._by_address.get(address) == vm:
                    del self._by_address[address]
        if started is not None:
            self._started[vm] = started
            self._by_address |= dict.fromkeys(started.addresses, vm)

    def conflict(self, vm: VM, machines: Mapping[str, VmMachine]) -> Shortage | None:
        """Return what keeps a VM from starting, if the guest of another VM may still have one of its addresses."""
        for address in vm.addresses:
            holder = self._by_address.get(address)
            if holder is None or holder == vm.uuid:
                continue
            other = machines.get(holder)
            if other is None or other.state in (VmState.PAUSED, VmState.SUSPENDED):
                return None
            was = "no longer configured, still runs" if other.terms.removed else "still runs"
            return Shortage(f"{other.vm.name}, {was} with the address {address}", needs_stop=False)
        return None
