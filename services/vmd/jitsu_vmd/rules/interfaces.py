"""At which of its network interfaces a VM is reached, and at which addresses clients can reach it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_protocol.model.vm import VM


def reached_at(nics: Sequence[tuple[str, str, str]], mac: str, bridge: str) -> tuple[str, str, str]:
    """Return the MAC address, bridge and host-side interface of the interface at which a VM is reached.

    It is the one on the bridge that the VM names (`bridge`), else the first. `mac` is the VM's own by its
    configuration, for a hypervisor that tells no MAC address or has not made the interfaces yet.
    """
    chosen = next((nic for nic in nics if nic[1] == bridge), nics[0] if nics else ("", "", ""))
    elsewhere = bridge and chosen[1] and bridge != chosen[1]
    return chosen[0] or mac, bridge or chosen[1], "" if elsewhere else chosen[2]


def check_addresses(vm: VM) -> None:
    """Raise Refused if a VM has an address that no client can use."""
    for address in vm.addresses:
        if address.is_link_local:
            which = "fd00::1 or 2001:db8::1" if address.version == 6 else "192.168.1.10"
            raise Refused(
                f"ip: {address} is a link-local address, which no client can use that finds it in the DNS; "
                f"give the VM one such as {which}"
            )
