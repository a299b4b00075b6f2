"""Whether a change as a whole leaves a tree that the suite can run: the one place that decides it.

`jitsu apply`, `set`, `merge`, `pull` and the start of the suite all come through here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.inventory import Inventory
from jitsu_protocol.vm import VM_ROOT, Holdings
from jitsu_store.rules.tree import MAX_VALUE_CHARACTERS, LeafTree, config_fault, path_fault

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jitsu_store.rules.tree import Changes


class State:
    """A revision's leaves and the VMs that they describe, to try changes on."""

    def __init__(self, leaves: Mapping[str, str]) -> None:
        self.tree = LeafTree(leaves)
        self._inventory = Inventory()
        self._holdings = Holdings()
        for change in self._inventory.reset(leaves):
            if change.new is not None:
                self._holdings.add(change.new)

    def faults(self) -> dict[str, str]:
        """Return the VMs that cannot be used: uuid -> why."""
        faults = dict(self._inventory.faults)
        for vm in self._inventory.vms.values():
            if clashing := self._holdings.clashes(vm):
                faults[vm.uuid] = "; ".join(f"{fault.key}: {fault.message}" for fault in clashing)
        return faults

    def notes(self) -> list[str]:
        """Return what an operator should know of VMs that cannot be used, except those that clash with others."""
        return self._inventory.notes(self._inventory.faults)

    def put(self, changes: Mapping[str, str | None]) -> tuple[Changes, list[str]]:
        """Make changes and return what undoes them, and everything that is wrong with the result.

        A VM that was broken before and is not touched does not stand in the way.
        """
        reasons = list(_form_reasons(changes))
        if reasons:
            return {}, reasons
        undo, reasons = self.tree.put(changes)
        for change in self._inventory.apply((path, self.tree.get(path)) for path in undo):
            if change.old is not None:
                self._holdings.remove(change.old)
            if change.new is not None:
                self._holdings.add(change.new)
        return undo, reasons + self._vm_reasons(touched_vms(changes))

    def undo(self, undo: Changes) -> None:
        """Take changes back."""
        self.put(undo)

    def _vm_reasons(self, touched: set[str]) -> list[str]:
        reasons = []
        for uuid in sorted(touched):
            vm = self._inventory.vms.get(uuid)
            if uuid in self._inventory.faults:
                reasons.append(f"{VM_ROOT}/{uuid}: {self._inventory.faults[uuid]}")
            elif vm is not None:
                reasons += [
                    f"{VM_ROOT}/{uuid} ({vm.name}): {fault.key}: {fault.message}"
                    for fault in self._holdings.clashes(vm)
                ]
        return reasons


def _form_reasons(changes: Mapping[str, str | None]) -> Iterable[str]:
    for path, value in changes.items():
        if fault := path_fault(path) or ("" if value is None else config_fault(path)):
            yield fault
        elif value is not None and len(value) > MAX_VALUE_CHARACTERS:
            yield f"the value of {path} has more than {MAX_VALUE_CHARACTERS} characters"
        elif value is not None and not _is_text(value):
            yield f"the value of {path} is no text: {value[:50]!r}"


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def touched_vms(paths: Iterable[str]) -> set[str]:
    """Return the uuids of the VMs that a change is about."""
    start = VM_ROOT + "/"
    return {path.removeprefix(start).partition("/")[0] for path in paths if path.startswith(start)}
