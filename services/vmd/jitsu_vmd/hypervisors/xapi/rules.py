"""What XAPI cannot do for a VM, and which VM of a pool is meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import NotFound, Refused, Unavailable
from jitsu_vmd.hypervisors.shared.rules.spec import is_made
from jitsu_vmd.hypervisors.shared.rules.unused_keys import MADE_KEYS, XEN_KEYS, refuse_keys, refuse_mock_keys

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM


def check(vm: VM) -> None:
    """Raise Refused if XAPI cannot do what a VM's keys ask for."""
    if vm.wait_for_key:
        raise Refused("wait_for_key: XAPI gives no access to Xenstore")
    if is_made(vm):
        raise Refused("kernel and domain_xml: on XAPI a VM is one that the pool has already")


def check_keys(vm: VM) -> None:
    """Raise Refused if a VM has a key that has no effect with XAPI."""
    refuse_mock_keys(vm)
    refuse_keys(vm, (*MADE_KEYS, *XEN_KEYS), f"{vm.name} is a VM that the pool has; set it there")


def check_one(vm: VM, found: int) -> None:
    """Raise NotFound or Unavailable unless the pool has exactly one VM that may be meant."""
    if not found:
        which = f"with the uuid {vm.uuid}" if "uuid" in vm.config else vm.name
        raise NotFound(f"the pool has no VM {which}", hint="`xe vm-list` shows the VMs of the pool")
    if found > 1:
        raise Unavailable(f"{found} VMs of the pool are called {vm.name}", hint="name one of them with the key uuid")
