"""What is reported of a VM, in the form that frames have: MAC and IP addresses as bytes.

The store and vmd check these values too. They are checked once more here, because they go into tables and into one
filter program that all VMs of a bridge share: a value that is wrong must cost the VM that has it, and no other.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from jitsu_protocol.model.inventory import check_durations
from jitsu_protocol.model.vm_keys import MAX_SECONDS, mac_address

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jitsu_protocol.model.vm import VM


def packed_mac(text: str) -> bytes:
    """Return a MAC address as six bytes; raises ValueError."""
    return bytes.fromhex(mac_address(text).replace(":", ""))


def packed(addresses: Iterable[str]) -> tuple[bytes, ...]:
    """Return IP addresses as bytes; raises ValueError."""
    return tuple(ip_address(address).packed for address in addresses)


def seconds(value: float) -> float:
    """Return a duration; raises ValueError for what a deadline cannot be computed from."""
    if not 0 <= value <= MAX_SECONDS:
        raise ValueError(f"{value} is not a duration")
    return value


def check(host: str, vm: VM) -> None:
    """Raise ValueError if Synjitsu cannot work with a VM of this host."""
    if vm.host == host:
        check_durations(vm)
        packed_mac(vm.mac)
        if not packed(map(str, vm.addresses)):
            raise ValueError("ip: the VM has no address; configure at least one")
