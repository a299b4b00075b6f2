"""The request that has Synjitsu hold the addresses of a VM that boots, and how long its reply is awaited."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from jitsu_protocol.messages import Arm

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.hypervisor import Nic
    from jitsu_vmd.wires.hypervisors import Hypervisors

ARM_LIMIT_S = 0.25
"""Synjitsu answers in a millisecond or is not there; the boot must not wait for it."""
BUSY_LIMIT_S, RECENT_S = 1.0, 5.0
"""If Synjitsu has answered within RECENT_S it runs, and is busy with other VMs: a hundred may boot at once."""
MARGIN_S = 5.0
"""Synjitsu gives up later than vmd does, because vmd notifies it of a failed boot."""


class ArmPatience:
    """Decides how long to wait for Synjitsu's acknowledgement."""

    def __init__(self) -> None:
        self._answered_at = float("-inf")

    def limit_s(self, now: float) -> float:
        """Return how long to wait for the reply to a request that is sent now."""
        return BUSY_LIMIT_S if now < self._answered_at + RECENT_S else ARM_LIMIT_S

    def note(self, now: float, *, answered: bool) -> None:
        """Note whether a request was answered."""
        self._answered_at = now if answered else float("-inf")


async def nic_of_next_start(hypervisors: Hypervisors, vm: VM, nic: Nic) -> Nic:
    """Return the interface of a VM that is about to start, with the name of the host's end if that is known already.

    So Synjitsu can keep the bridge from flooding to it before the guest's queue is there.
    """
    interface = await hypervisors.reserved(vm)
    return replace(nic, interface=interface) if interface else nic


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
