"""Having Synjitsu hold the addresses of a VM that boots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.messages import Arm

if TYPE_CHECKING:
    from jitsu_protocol.vm import VM
    from jitsu_vmd.hypervisor import Nic

ARM_LIMIT_S = 0.25
"""Synjitsu answers in a millisecond or is not there; the boot must not wait for it."""
MARGIN_S = 5.0
"""Synjitsu gives up later than vmd, which says so."""


def arm_request(vm: VM, nic: Nic, domain: int | None = None, *, is_there: bool) -> Arm:
    """Return the request to hold a VM's addresses; `domain` is its id in Xenstore."""
    return Arm(
        vm=vm.uuid,
        addresses=[str(address) for address in vm.addresses],
        mac=nic.mac,
        bridge=nic.bridge,
        interface=nic.interface,
        handover=vm.handover.value,
        domain_id=domain,
        is_there=is_there,
        limit_s=vm.boot_limit + MARGIN_S,
    )
