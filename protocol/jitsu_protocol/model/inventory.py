"""The VMs that the state tree describes, kept up to date from the store's feed.

The store has an inventory, and so has each service that follows the store. A VM whose leaves make no sense is left out
and reported, and does not disturb the others (G9): the database may have been edited by other tools, or written by a
version that checked less. A VM that one service cannot work with (`check`) is left out by that service only.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jitsu_protocol.model.vm import VM, VM_ROOT, InvalidVm, from_tree
from jitsu_protocol.model.vm_keys import MAX_SECONDS, MAX_TTL_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


@dataclass(frozen=True)
class VmChanged:
    """A VM was added (`old` is None), removed (`new` is None) or configured differently."""

    old: VM | None
    new: VM | None


def on_host(changes: Iterable[VmChanged], host: str) -> list[VmChanged]:
    """Return the changes of one host's VMs: a VM that moves is removed from one host and added to another."""
    found = []
    for change in changes:
        old = change.old if change.old is not None and change.old.host == host else None
        new = change.new if change.new is not None and change.new.host == host else None
        if old is not None or new is not None:
            found.append(VmChanged(old, new))
    return found


MAX_NAME_SHOWN = 64
MAX_NOTED = 5
"""For at most this many VMs that are left out, `jitsu status` shows the reason; it only counts the others."""


def accept(_: VM) -> None:
    """Accept every VM that the model allows."""


_DURATIONS = ("response_delay", "max_idle_connection", "idle_timeout", "max_wait", "boot_limit")


def check_durations(vm: VM) -> None:
    """Raise ValueError if a deadline of a VM cannot be computed from its configuration.

    The model refuses such values too. A service checks again what it puts into a queue that all VMs share, because one
    deadline that is not a number would put the deadlines of the others out of order, and an infinite one would end the
    process.
    """
    values = dict(vm)
    for field_name in _DURATIONS:
        seconds = values[field_name]
        if not 0 <= seconds <= MAX_SECONDS:
            raise ValueError(f"{field_name}: {seconds} is not a duration; use seconds from 0 to {MAX_SECONDS:.0f}")
    if not vm.names:
        raise ValueError("dns: the VM has no DNS name; configure at least one")
    for name, ttl in vm.names.items():
        if not 0 <= ttl <= MAX_TTL_S:
            raise ValueError(f"dns/{name}/ttl: {ttl} is not a TTL; use seconds from 0 to {MAX_TTL_S}")


@dataclass
class Inventory:
    """All VMs by UUID."""

    check: Callable[[VM], object] = accept
    """Raises ValueError with the reason if this service cannot work with a VM."""
    vms: dict[str, VM] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    """Why a VM is left out, by UUID."""
    refused: dict[str, str] = field(default_factory=dict)
    """Why `check` refused a VM, by UUID; each of these is in `faults` too."""
    new_faults: dict[str, str] = field(default_factory=dict)
    """The faults that have appeared since the owner of this inventory last cleared it."""
    _leaves: dict[str, dict[str, str]] = field(default_factory=dict)
    _incoming: dict[str, dict[str, str]] = field(default_factory=dict)
    _built: dict[str, VM] = field(default_factory=dict)
    """The VMs of a reset under way, built from their leaves so far if those make sense."""

    def reset(self, leaves: Mapping[str, str]) -> list[VmChanged]:
        """Replace all leaves (path -> value) and return the VMs that differ from before."""
        self.begin_reset()
        self.add(leaves)
        return self.end_reset()

    def begin_reset(self) -> None:
        """Begin to replace all leaves in pieces; `vms` keeps its old content until `end_reset`."""
        self._incoming, self._built = {}, {}

    def add(self, leaves: Mapping[str, str]) -> None:
        """Add a piece (path -> value), which must have all leaves of each VM that is in it.

        VMs that have changed are built now, so that `end_reset` of ten thousand VMs is not one long pause.
        """
        uuids = set()
        for path, value in leaves.items():
            uuid, leaf = _leaf_of_vm(path)
            if leaf:
                self._incoming.setdefault(uuid, {})[leaf] = value
                uuids.add(uuid)
        for uuid in uuids:
            if self._leaves.get(uuid) != self._incoming[uuid]:
                with suppress(InvalidVm):  # end_reset reports what is wrong with it
                    self._built[uuid] = from_tree(uuid, self._incoming[uuid])

    def end_reset(self) -> list[VmChanged]:
        """Finish the replacement and return the VMs that differ from before."""
        before, self._leaves, self._incoming = self._leaves, self._incoming, {}
        others = [uuid for uuid in {*before, *self._leaves} if before.get(uuid) != self._leaves.get(uuid)]
        try:
            return self._rebuild(others)
        finally:
            self._built = {}

    def apply(self, changes: Iterable[tuple[str, str | None]]) -> list[VmChanged]:
        """Apply the changes of one commit, (path, new value or None), and return the VMs that they changed."""
        return self._rebuild({self._put(path, value) for path, value in changes})

    def notes(self, faults: Mapping[str, str]) -> list[str]:
        """Return a sentence about each VM that is left out, for the operator, from `self.faults` or `self.refused`."""
        shown = [f"VM {self._name(uuid)} is left out: {faults[uuid]}" for uuid in sorted(faults)[:MAX_NOTED]]
        more = len(faults) - len(shown)
        return [*shown, f"{more} more VMs are left out; the log has each with its reason"] if more > 0 else shown

    def _name(self, uuid: str) -> str:
        leaves = self._leaves.get(uuid, {})
        name = leaves.get("config/name/0") or leaves.get("config/dns/0", "")
        return f"{name[:MAX_NAME_SHOWN]} ({uuid[:MAX_NAME_SHOWN]})" if name else uuid[:MAX_NAME_SHOWN]

    def _put(self, path: str, value: str | None) -> str:
        uuid, leaf = _leaf_of_vm(path)
        if not leaf:
            return ""
        if value is not None:
            self._leaves.setdefault(uuid, {})[leaf] = value
        elif uuid in self._leaves:
            self._leaves[uuid].pop(leaf, None)
            if not self._leaves[uuid]:
                del self._leaves[uuid]
        return uuid

    def _rebuild(self, uuids: Iterable[str]) -> list[VmChanged]:
        changed = []
        for uuid in sorted(set(uuids) - {""}):
            old = self.vms.pop(uuid, None)
            new = self._build(uuid)
            if new is not None:
                self.vms[uuid] = old if new == old else new  # keep the object that others refer to already
            if new != old:
                changed.append(VmChanged(old, new))
        return changed

    def _build(self, uuid: str) -> VM | None:
        before = self.faults.pop(uuid, None)
        self.refused.pop(uuid, None)
        self.new_faults.pop(uuid, None)
        if uuid not in self._leaves:
            return None
        try:
            vm = self._built.get(uuid) or from_tree(uuid, self._leaves[uuid])
        except InvalidVm as error:
            self._leave_out(uuid, str(error), before)
            return None
        try:
            self.check(vm)
        except ValueError as error:
            self.refused[uuid] = str(error)
            self._leave_out(uuid, str(error), before)
            return None
        return vm

    def _leave_out(self, uuid: str, reason: str, before: str | None) -> None:
        self.faults[uuid] = reason
        if reason != before:
            self.new_faults[uuid] = reason


def _leaf_of_vm(path: str) -> tuple[str, str]:
    """Return a VM's UUID and the path below it; two empty strings for a path that does not belong to a VM."""
    rest = path.removeprefix(VM_ROOT + "/")
    uuid, _, leaf = rest.partition("/")
    return (uuid, leaf) if rest != path and leaf else ("", "")
