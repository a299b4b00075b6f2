"""The addresses at which a guest has never shown itself in its last boot, for `jitsu status`."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jitsu_synjitsu.rules.handover import Handover

MAX_MISSING = 10_000
"""The latest are remembered."""


@dataclass
class MissingAddresses:
    """Those of all VMs of one bridge."""

    _found: dict[bytes, str] = field(default_factory=dict, init=False)
    """Address -> another that the guest has announced, or ""."""

    def note(self, machine: Handover) -> None:
        """Note how the boot of a VM has ended."""
        for address in machine.addresses:
            self._found.pop(address, None)
        foreign = str(ip_address(machine.guest.foreign)) if machine.guest.foreign else ""
        self._found |= dict.fromkeys(machine.guest.missing, foreign)
        while len(self._found) > MAX_MISSING:
            del self._found[next(iter(self._found))]

    def shown(self) -> dict[str, str]:
        """Return them, each with another address that the guest has announced, or ""."""
        return {str(ip_address(address)): foreign for address, foreign in self._found.items()}
