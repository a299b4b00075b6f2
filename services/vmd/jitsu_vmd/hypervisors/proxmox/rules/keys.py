"""Keys of a VM that Proxmox VE cannot honour, or that have no effect with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import Refused
from jitsu_vmd.hypervisors.shared.rules.unused_keys import MADE_KEYS, XEN_KEYS, refuse_keys, refuse_mock_keys

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM


def check_possible(vm: VM) -> None:
    """Raise Refused if Proxmox VE can never do what a VM's keys ask for."""
    if vm.wait_for_key:
        raise Refused("wait_for_key: Proxmox VE has no Xenstore; remove it, or use wait_for_port")
    refuse_keys(vm, ("kernel", "domain_xml"), "a machine of Proxmox VE is one that it has already; remove it")


def check_unused(vm: VM) -> None:
    """Raise Refused if a VM has a key that has no effect with Proxmox VE."""
    refuse_mock_keys(vm)
    refuse_keys(vm, (*MADE_KEYS, *XEN_KEYS), f"{vm.name} is a machine that Proxmox VE has; set it there")
