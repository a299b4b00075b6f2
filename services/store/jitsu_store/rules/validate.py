"""Whether a change as a whole leaves a tree that the suite can run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.vm import VM_ROOT, clashes
from jitsu_store.rules.tree import MAX_VALUE_CHARACTERS, blocked, directories, path_fault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jitsu_protocol.inventory import Inventory


def path_reasons(leaves: Mapping[str, str], changes: Mapping[str, str | None]) -> list[str]:
    """Return what is wrong with the paths and the form of the values."""
    reasons = []
    after = {path: value for path, value in leaves.items() if changes.get(path, value) is not None}
    after |= {path: value for path, value in changes.items() if value is not None}
    above = directories(after)
    for path, value in changes.items():
        fault = path_fault(path)
        if not fault and value is not None:
            fault = blocked(after, above, path)
            if len(value) > MAX_VALUE_CHARACTERS:
                fault = f"the value of {path} has more than {MAX_VALUE_CHARACTERS} characters"
        if fault:
            reasons.append(fault)
    return reasons


def vm_reasons(inventory: Inventory, touched: set[str]) -> list[str]:
    """Return what is wrong with the VMs after a change that touched these uuids.

    A VM that was broken before and is not touched does not stand in the way.
    """
    reasons = [f"{VM_ROOT}/{uuid}: {inventory.faults[uuid]}" for uuid in sorted(touched) if uuid in inventory.faults]
    vms = sorted(inventory.vms.values(), key=lambda vm: (vm.uuid in touched, vm.uuid))
    for uuid, fault in clashes(vms):
        if uuid in touched:
            reasons.append(f"{VM_ROOT}/{uuid}: {fault.key}: {fault.message}")
    return reasons


def touched_vms(changes: Mapping[str, str | None]) -> set[str]:
    """Return the uuids of the VMs that a change is about."""
    start = VM_ROOT + "/"
    return {path.removeprefix(start).partition("/")[0] for path in changes if path.startswith(start)}
