"""Whether a change leaves a tree that the suite can run. This is the only place that decides it.

A change is judged as a whole, because its parts may only make sense together. `jitsu apply`, `set`, `merge`, `pull` and
the start of the suite all come through here.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING

from jitsu_protocol.model.holdings import Holdings
from jitsu_protocol.model.inventory import MAX_NOTED, Inventory
from jitsu_protocol.model.vm import VM_ROOT
from jitsu_store.git.steps import PIECE, PIECE_VMS, at_once
from jitsu_store.rules.config_keys import config_fault
from jitsu_store.rules.tree import (
    MAX_PATH_CHARACTERS,
    MAX_TREE_BYTES,
    MAX_VALUE_CHARACTERS,
    LeafTree,
    part_fault,
    path_fault,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from jitsu_store.git.steps import Steps
    from jitsu_store.rules.tree import Changes


LEAVES_KEPT = 1024
"""Paths of leaves below a VM that were checked. VMs have the same keys, so most come again."""
MAX_VM_BYTES = 512 * 1024
"""One VM's paths and values: enough for hundreds of names, and for all keys at their longest."""
MAX_PUBLISHED_BYTES = 4 * 1024 * 1024
"""A VM that has more was written when there was no limit. It is left out of what services are sent."""


class State:
    """The leaves of a revision and the VMs that they describe. Changes are tried on it."""

    def __init__(self, leaves: Mapping[str, str] | LeafTree) -> None:
        """Begin with these leaves. Building thousands of VMs takes a while; `prepare` does it in pieces."""
        self.tree = leaves if isinstance(leaves, LeafTree) else LeafTree(leaves)
        self._inventory = Inventory()
        self._holdings = Holdings()
        self._bytes: Counter[str] = Counter()
        """VM -> bytes of its paths and values; "" has the sum over all leaves."""
        self._unbuilt = list(self.tree.names_below(VM_ROOT))
        self._unexamined: list[str] | None = None
        """VMs that have not been compared with the others yet; None before the first comparison."""
        self._clashing: list[str] = []
        """VMs that clashed when they were compared: another tool may have written them."""
        self._is_sized = False
        """The leaves that belong to no VM have been counted."""

    def prepare(self, vms: int | None = None) -> bool:
        """Build this many more VMs (all if None); return whether there are more. `put` and `faults` build the rest."""
        if not self._is_sized:
            self._is_sized = True
            for top in self._tops():
                self._measure(self.tree.below(top))
        building = self._unbuilt[-vms:] if vms else self._unbuilt[:]
        del self._unbuilt[len(self._unbuilt) - len(building) :]
        for uuid in building:
            leaves = self.tree.below(f"{VM_ROOT}/{uuid}")
            self._measure(leaves)
            self._rebuild(leaves)
        return bool(self._unbuilt)

    def _tops(self) -> Iterable[str]:
        """Yield the paths below which all leaves are, except those of VMs."""
        above, _, name = VM_ROOT.rpartition("/")
        yield from (top for top in self.tree.names_below("") if top != above)
        yield from (f"{above}/{top}" for top in self.tree.names_below(above) if top != name)

    def _measure(self, leaves: Mapping[str, str]) -> None:
        grown: Counter[str] = Counter()
        for path, value in leaves.items():
            grown[_vm_of(path) if path.startswith(_BELOW_VMS) else ""] += _size(path, value)
        self._grow(grown)

    def _rebuild(self, changes: Mapping[str, str | None]) -> None:
        for change in self._inventory.apply(changes.items()):
            if change.old is not None:
                self._holdings.remove(change.old)
            if change.new is not None:
                self._holdings.add(change.new)

    def find_clashes(self, vms: int | None = None) -> bool:
        """Compare this many more VMs (all if None) with the others, and return whether there are more."""
        if self._unexamined is None:
            self.prepare()
            self._unexamined = list(self._inventory.vms)
        examining = self._unexamined[-vms:] if vms else self._unexamined[:]
        del self._unexamined[len(self._unexamined) - len(examining) :]
        self._clashing += [uuid for uuid in examining if self._clash(uuid)]
        return bool(self._unexamined)

    def _clash(self, uuid: str) -> str:
        vm = self._inventory.vms.get(uuid)
        clashing = [] if vm is None else self._holdings.clashes(vm)
        return "; ".join(f"{fault.key}: {fault.message}" for fault in clashing)

    def faults(self) -> dict[str, str]:
        """Return the VMs that cannot be used: uuid -> why."""
        self.prepare()
        self.find_clashes()
        return self._inventory.faults | dict(self._clashes())

    def _clashes(self) -> Iterator[tuple[str, str]]:
        """Yield the VMs that clashed when they were compared and still do, each with the reason."""
        return ((uuid, why) for uuid in self._clashing if (why := self._clash(uuid)))

    def notes(self) -> list[str]:
        """Return what an operator should know about VMs that cannot be used."""
        large = sorted(vm for vm, size in self._bytes.items() if vm and size > MAX_PUBLISHED_BYTES)[:MAX_NOTED]
        clashing = islice(self._clashes(), MAX_NOTED)
        return [
            *self._inventory.notes(self._inventory.faults),
            *(f"VM {self._inventory.vms[uuid].name} clashes with another: {why}" for uuid, why in clashing),
            *(f"VM {vm} is left out: it has {self._bytes[vm]} bytes of paths and values" for vm in large),
        ]

    def put(self, changes: Mapping[str, str | None]) -> tuple[Changes, list[str]]:
        """Make changes. Return what undoes them, and everything that is wrong with the result.

        A VM that was broken before and is not touched is no obstacle.
        """
        return at_once(self.put_steps(changes))

    def put_steps(self, changes: Mapping[str, str | None]) -> Steps[tuple[Changes, list[str]]]:
        """Do what `put` does, in steps. In between, the tree has some of the changes."""
        reasons: list[str] = []
        touched: set[str] = set()
        vm_root = _NOWHERE
        for number, (path, value) in enumerate(changes.items(), 1):
            if not path.startswith(vm_root):  # leaves of a VM mostly come together
                vm_root = _NOWHERE
                if path.startswith(_BELOW_VMS):
                    vm = _vm_of(path)
                    vm_root = f"{_BELOW_VMS}{vm}/"
                    touched.add(vm)
            if fault := _form_reason(path, value, vm_root):
                reasons.append(fault)
            if number % PIECE == 0:
                yield
        if reasons:
            return {}, reasons
        self.prepare()
        before = {vm: self._bytes[vm] for vm in (*touched, "")}
        undo, reasons = yield from self._change_steps(changes)
        return undo, reasons + list(self._size_reasons(before)) + (yield from self._vm_reasons(touched))

    def undo(self, undo: Changes) -> None:
        """Take changes back."""
        at_once(self.undo_steps(undo))

    def undo_steps(self, undo: Changes) -> Steps[None]:
        """Do what `undo` does, in steps. What was there before is not judged: another program may have written it."""
        yield from self._change_steps(undo)

    def _change_steps(self, changes: Mapping[str, str | None]) -> Steps[tuple[Changes, list[str]]]:
        undo, reasons = yield from self.tree.put_steps(changes)
        by_vm: dict[str, Changes] = {}
        grown: Counter[str] = Counter()
        vm, vm_root, of_vm = "", _NOWHERE, dict[str, str | None]()
        for number, (path, old) in enumerate(undo.items(), 1):
            new = changes[path]
            if not path.startswith(vm_root):  # leaves of a VM mostly come together
                vm, vm_root = "", _NOWHERE
                if path.startswith(_BELOW_VMS):
                    vm = _vm_of(path)
                    vm_root = f"{_BELOW_VMS}{vm}/"
                    of_vm = by_vm.setdefault(vm, {})
            grown[vm] += _size(path, new) - _size(path, old)
            if vm:
                of_vm[path] = new
            if number % PIECE == 0:
                yield
        self._grow(grown)
        for number, of_vm in enumerate(by_vm.values(), 1):
            self._rebuild(of_vm)
            if number % PIECE_VMS == 0:
                yield
        return undo, reasons

    def _grow(self, by: Mapping[str, int]) -> None:
        """Count bytes that were added: VM -> how many, "" for leaves that belong to no VM."""
        self._bytes[""] += sum(by.values())
        for vm, size in by.items():
            if vm:
                self._bytes[vm] += size
                if not self._bytes[vm]:
                    del self._bytes[vm]

    def _size_reasons(self, before: Mapping[str, int]) -> Iterable[str]:
        """Yield what has grown beyond its limit. What was too large already may shrink step by step."""
        for vm, size in before.items():
            limit = MAX_VM_BYTES if vm else MAX_TREE_BYTES
            if max(size, limit) < self._bytes[vm]:
                what = f"{VM_ROOT}/{vm}" if vm else "the tree"
                yield f"{what} would have {self._bytes[vm]} bytes of paths and values, {limit} are allowed"

    def _vm_reasons(self, touched: set[str]) -> Steps[list[str]]:
        reasons = []
        for number, uuid in enumerate(sorted(touched), 1):
            if number % PIECE == 0:
                yield
            vm = self._inventory.vms.get(uuid)
            if uuid in self._inventory.faults:
                reasons.append(f"{VM_ROOT}/{uuid}: {self._inventory.faults[uuid]}")
            elif vm is not None:
                reasons += [
                    f"{VM_ROOT}/{uuid} ({vm.name}): {fault.key}: {fault.message}"
                    for fault in self._holdings.clashes(vm)
                ]
        return reasons


_BELOW_VMS = VM_ROOT + "/"
_NOWHERE = "//"
"""No path begins so."""


def _size(path: str, value: str | None) -> int:
    return 0 if value is None else len(path) + (len(value) if value.isascii() else len(value.encode()))


def _form_reason(path: str, value: str | None, vm_root: str) -> str:
    """Return why no value, or not this value, can be set at a path; or nothing. `vm_root` is that of its VM."""
    if not _is_plain_leaf(path, vm_root) and (fault := _path_reason(path, value)):
        return fault
    if value is not None and len(value) > MAX_VALUE_CHARACTERS:
        return f"the value of {path} has more than {MAX_VALUE_CHARACTERS} characters"
    if value is not None and not _is_text(value):
        return f"the value of {path} is not text: {value[:50]!r}"
    return ""


def _path_reason(path: str, value: str | None) -> str:
    return path_fault(path) or ("" if value is None or "/config/" not in path else config_fault(path))


def _is_plain_leaf(path: str, vm_root: str) -> bool:
    """Return whether a path is one of a VM that needs no closer look."""
    return (
        vm_root is not _NOWHERE
        and len(path) <= MAX_PATH_CHARACTERS
        and _may_be_leaf(path[len(vm_root) :])
        and not part_fault(vm_root[len(_BELOW_VMS) : -1])
    )


@lru_cache(LEAVES_KEPT)
def _may_be_leaf(leaf: str) -> bool:
    """Return whether any VM may have a leaf of this path below it."""
    path = f"{_BELOW_VMS}vm/{leaf}"
    return not (path_fault(path) or ("/config/" in path and config_fault(path)))


def _is_text(value: str) -> bool:
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _vm_of(path: str) -> str:
    """Return the uuid of the VM that a path below `jitsu/vm/` is about."""
    return path[len(_BELOW_VMS) :].partition("/")[0]
