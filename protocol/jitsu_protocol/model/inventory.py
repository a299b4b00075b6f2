"""The VMs that the state tree describes, kept up to date from the store's feed.

The store holds one, and so does each service that follows it. A VM whose leaves make no sense (a database edited by
other tools, or written by a version that checked less) is left out and reported; it does not disturb the others (G9).
The same happens to a VM of which a service says that it cannot work with it (`check`).
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
    """A VM came (`old` is None), went (`new` is None) or is configured otherwise."""

    old: VM | None
    new: VM | None


def on_host(changes: Iterable[VmChanged], host: str) -> list[VmChanged]:
    """Return what changes for one host: a VM that moves to another is gone here, and came there."""
    found = []
    for change in changes:
        old = change.old if change.old is not None and change.old.host == host else None
        new = change.new if change.new is not None and change.new.host == host else None
        if old is not None or new is not None:
            found.append(VmChanged(old, new))
    return found


MAX_NAME_SHOWN = 64
MAX_NOTED = 5
"""VMs that are left out, of which status says the reason; of the others it says how many there are."""


def accept(_: VM) -> None:
    """Raise nothing: every VM that the model allows will do."""


_DURATIONS = ("response_delay", "max_idle_connection", "idle_timeout", "max_wait", "boot_limit")


def check_durations(vm: VM) -> None:
    """Raise ValueError if a deadline of a VM cannot be computed from its configuration.

    The model refuses such values. A service checks once more what it puts into a queue that all VMs share: one deadline
    that is not a number would put those of the others out of order, and an infinite one would end the process.
    """
    for field_name in _DURATIONS:
        seconds = getattr(vm, field_name)
        if not 0 <= seconds <= MAX_SECONDS:
            raise ValueError(f"{field_name}: {seconds} is not a duration; use seconds from 0 to {MAX_SECONDS:.0f}")
    if not vm.names:
        raise ValueError("dns: the VM has no DNS name; configure at least one")
    for name, ttl in vm.names.items():
        if not 0 <= ttl <= MAX_TTL_S:
            raise ValueError(f"dns/{name}/ttl: {ttl} is not a TTL; use seconds from 0 to {MAX_TTL_S}")


@dataclass
class Inventory:
    """All VMs, by uuid."""

    check: Callable[[VM], object] = accept
    """Raises ValueError with the reason if this service cannot work with a VM."""
    vms: dict[str, VM] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    """uuid -> why this VM cannot be used."""
    refused: dict[str, str] = field(default_factory=dict)
    """uuid -> why `check` refused it; each of these is in `faults` too."""
    new_faults: dict[str, str] = field(default_factory=dict)
    """Those that have come since the holder last cleared it."""
    _leaves: dict[str, dict[str, str]] = field(default_factory=dict)
    _taken: dict[str, dict[str, str]] = field(default_factory=dict)
    _built: dict[str, VM] = field(default_factory=dict)
    """Of those that are being taken: each as its leaves are, if they make sense."""

    def reset(self, leaves: Mapping[str, str]) -> list[VmChanged]:
        """Take the whole tree (path -> value) and return what differs from before."""
        self.begin_reset()
        self.take(leaves)
        return self.end_reset()

    def begin_reset(self) -> None:
        """Begin to take the whole tree in pieces; until `end_reset`, what was known before still counts."""
        self._taken, self._built = {}, {}

    def take(self, leaves: Mapping[str, str]) -> None:
        """Take a piece (path -> value); all of a VM is in the same one.

        What is new in it is built now, so that the end of ten thousand VMs is not one long pause.
        """
        uuids = set()
        for path, value in leaves.items():
            uuid, leaf = _leaf_of_vm(path)
            if leaf:
                self._taken.setdefault(uuid, {})[leaf] = value
                uuids.add(uuid)
        for uuid in uuids:
            if self._leaves.get(uuid) != self._taken[uuid]:
                with suppress(InvalidVm):  # end_reset says what is wrong with it
                    self._built[uuid] = from_tree(uuid, self._taken[uuid])

    def end_reset(self) -> list[VmChanged]:
        """Return what differs from before."""
        before, self._leaves, self._taken = self._leaves, self._taken, {}
        others = [uuid for uuid in {*before, *self._leaves} if before.get(uuid) != self._leaves.get(uuid)]
        try:
            return self._rebuild(others)
        finally:
            self._built = {}

    def apply(self, changes: Iterable[tuple[str, str | None]]) -> list[VmChanged]:
        """Take the changes of one commit, (path, new value or None), and return what they changed."""
        return self._rebuild({self._put(path, value) for path, value in changes})

    def notes(self, faults: Mapping[str, str]) -> list[str]:
        """Return what an operator should know of VMs that are left out; `faults` is all of them, or `refused`."""
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
                self.vms[uuid] = old if new == old else new  # whoever holds the one from before holds this one
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
    """Return a VM's uuid and the path below it; nothing for paths that are no VM's."""
    rest = path.removeprefix(VM_ROOT + "/")
    uuid, _, leaf = rest.partition("/")
    return (uuid, leaf) if rest != path and leaf else ("", "")
