"""VMs that labels describe: what vmd may write, and what becomes of the label branch and of master.

docs/explanation/labels.md says what happens when. In short, for each VM, with what the label branch has of it (before),
what master has (ours) and what labels say now (theirs):

    before   ours                 theirs     what happens
    -        -                    a VM       it is added
    -        a VM                 another    refused: somebody else has configured that VM
    a VM     -                    any        it is added again
    a VM     as before            any        it becomes what labels say
    a VM     changed              any        a value that only one side has changed is taken from that side; if both
                                             have changed one, the VM stays as it is, and that is refused
    a VM     as before, or its    -          it is removed
             own keys are changed
    a VM     changed              -          it stays, and is an operator's from now on

The branch has what labels have brought about in master, and nothing else. What is refused is in neither, or in both as
it was before. vmd is not believed: which names, keys and hosts a VM may have is checked here (`fault`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jitsu_protocol.model.identity import Identity, Role
from jitsu_protocol.model.labels import FOUND_KEYS, LABEL_KEYS, is_below
from jitsu_protocol.model.vm import VM_ROOT, InvalidVm, from_tree, key_of_leaf, uuid_for
from jitsu_protocol.model.vm_keys import KEYS
from jitsu_store.git.steps import PIECE_VMS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from jitsu_protocol.messages import Describe
    from jitsu_store.git.steps import Steps
    from jitsu_store.rules.hidden import Hidden
    from jitsu_store.rules.tree import Changes
    from jitsu_store.rules.validate import State

    VmLeaves = Mapping[str, str]
    """Leaf below `jitsu/vm/<uuid>/` -> value."""

_ALLOWED = LABEL_KEYS | FOUND_KEYS
MAX_VALUE_SHOWN = 60
MAX_NAMES_IN_MESSAGE = 10
VMD = Identity(Role.SERVICE, "vmd")
"""The author of what labels bring about."""


@dataclass
class LabelPlan:
    """What a message of vmd leads to, by the VM's uuid. Values are by the leaf below the VM."""

    branch: dict[str, Changes] = field(default_factory=dict)
    master: dict[str, Changes] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    """The VMs that change master: those that are removed, those that change, those that are new by their names."""

    def drop(self, vm: str, reason: str) -> None:
        """Leave a VM as it is."""
        self.branch.pop(vm, None)
        self.master.pop(vm, None)
        self.refusals[vm] = reason

    @property
    def branch_changes(self) -> Changes:
        """The changes of the label branch, by path."""
        return _by_path(self.branch)

    @property
    def master_changes(self) -> Changes:
        """The changes of master, by path."""
        return _by_path(self.master)


def decide(
    request: Describe,
    branch: Mapping[str, tuple[str | None, str | None]],
    state: State,
    hidden: Hidden,
    zones: Collection[str],
) -> Steps[LabelPlan]:
    """Return what a message leads to.

    `branch` is what the label branch has, compared with nothing; `zones` are the label zones. The tree in memory is
    afterwards as before.
    """

    def ours(vm: str) -> VmLeaves:
        return by_vm(state.tree.below(f"{VM_ROOT}/{vm}").items()).get(vm, {})

    before = by_vm((path, value) for path, (_, value) in branch.items())
    made = yield from plan(request, before, ours, zones)
    hiding = hidden.put(state.tree.values(made.master_changes))
    yield from settle(made, state)
    hidden.drop(hiding)
    return made


def plan(
    request: Describe, before: Mapping[str, VmLeaves], ours: Callable[[str], VmLeaves], zones: Collection[str]
) -> Steps[LabelPlan]:
    """Return what a message leads to, as far as each VM tells by itself; `settle` looks at clashes.

    `before` is what the label branch has, `ours` returns what master has of a VM, `zones` are the label zones.
    """
    made = LabelPlan()
    removed: list[str] = []
    changed: list[str] = []
    added: list[str] = []
    for number, vm in enumerate(sorted({*before, *request.vms}), 1):
        if number % PIECE_VMS == 0:
            yield
        wanted = request.vms.get(vm)
        if wanted is None:
            made.names[vm] = before[vm].get("config/name/0", "")
            if vm not in request.kept and before[vm].get("config/hypervisor/0", "") not in request.silent:
                _remove(made, vm, before[vm], ours(vm))
                removed.append(vm)
            continue
        made.names[vm] = wanted.get("config/name/0", "")
        if reason := fault(vm, wanted, request.host, zones):
            made.refusals[vm] = reason
            continue
        _put(made, vm, before.get(vm), ours(vm), wanted)
        (changed if vm in before else added).append(vm)
    added.sort(key=lambda vm: (made.names[vm], vm))
    made.order = [vm for vm in (*removed, *changed, *added) if vm in made.master]
    return made


def fault(vm: str, leaves: VmLeaves, host: str, zones: Collection[str]) -> str:
    """Return why labels may not describe this VM, or nothing."""
    for leaf in leaves:
        key = key_of_leaf(leaf)
        if key not in _ALLOWED:
            return f"{key or leaf[:100]}: labels may not set it; only an operator may"
    try:
        made = from_tree(vm, leaves)
    except InvalidVm as invalid:
        return str(invalid)
    if made.uuid != uuid_for(made.name):
        return f"uuid: a VM that labels describe has the one made from its name, {uuid_for(made.name)}"
    if made.host != host:
        return f"host: {made.host or 'none'} is not the host of the vmd that has found it"
    for key, names in (("dns", made.names), ("alias", made.aliases)):
        for name in names:
            if not is_below(name.removeprefix("*."), zones):
                allowed = ", ".join(sorted(zones)) or "none: hypervisor.label_zones is empty in the store's settings"
                return f"{key}: {name} is not below a label zone ({allowed})"
    return ""


def message(made: LabelPlan) -> str:
    """Return the message of a commit."""
    names = sorted(made.names.get(vm) or vm for vm in {*made.branch, *made.master})
    more = f" and {len(names) - MAX_NAMES_IN_MESSAGE} more" if len(names) > MAX_NAMES_IN_MESSAGE else ""
    return f"Labels of {', '.join(names[:MAX_NAMES_IN_MESSAGE])}{more}"


def _put(made: LabelPlan, vm: str, before: VmLeaves | None, ours: VmLeaves, wanted: VmLeaves) -> None:
    """Plan that a VM becomes what its labels say."""
    if ours != wanted:
        if ours and before is None:
            made.refusals[vm] = "this VM is configured already; remove it there, or the labels here"
            return
        target = wanted
        if ours and before is not None:
            if conflict := _conflict(before, ours, wanted):
                made.refusals[vm] = conflict
                return
            target = _merged(before, ours, wanted)
        if changes := _difference(ours, target):
            made.master[vm] = changes
    if changes := _difference(before or {}, wanted):
        made.branch[vm] = changes


def _remove(made: LabelPlan, vm: str, before: VmLeaves, ours: VmLeaves) -> None:
    """Plan that a VM goes that labels do not describe any longer."""
    made.branch[vm] = dict.fromkeys(before)
    if not ours:
        return
    others = [leaf for leaf in _differing(before, ours) if not _is_its_own(leaf)]
    if others:
        made.refusals[vm] = f"its labels are gone; it stays, because {others[0]} was changed by hand"
    else:
        made.master[vm] = dict.fromkeys(ours)


def _conflict(before: VmLeaves, ours: VmLeaves, wanted: VmLeaves) -> str:
    for leaf in _differing(before, wanted):
        mine, new = ours.get(leaf), wanted.get(leaf)
        if mine not in (before.get(leaf), new):
            return f"{leaf}: labels say {_shown(new)}, and somebody has set {_shown(mine)}; make both the same"
    return ""


def _merged(before: VmLeaves, ours: VmLeaves, wanted: VmLeaves) -> dict[str, str]:
    """Return what a VM becomes if no value was changed by both sides."""
    result = dict(ours)
    for leaf in _differing(before, wanted):
        if (new := wanted.get(leaf)) is None:
            result.pop(leaf, None)
        else:
            result[leaf] = new
    return result


def _differing(one: VmLeaves, other: VmLeaves) -> list[str]:
    return sorted(leaf for leaf in one.keys() | other.keys() if one.get(leaf) != other.get(leaf))


def _difference(old: VmLeaves, new: VmLeaves) -> Changes:
    return {leaf: new.get(leaf) for leaf in _differing(old, new)}


def _is_its_own(leaf: str) -> bool:
    """Say whether a VM may have changed this leaf itself (access.py)."""
    key = key_of_leaf(leaf)
    return bool(key) and KEYS[key].set_by == "vm"


def _shown(value: str | None) -> str:
    return "nothing" if value is None else repr(value[:MAX_VALUE_SHOWN])


def _by_path(changes: Mapping[str, Changes]) -> Changes:
    return {f"{VM_ROOT}/{vm}/{leaf}": value for vm, leaves in changes.items() for leaf, value in leaves.items()}


def by_vm(leaves: Iterable[tuple[str, str | None]]) -> dict[str, dict[str, str]]:
    """Return leaves by VM: uuid -> leaf below it -> value."""
    found: dict[str, dict[str, str]] = {}
    for path, value in leaves:
        vm, slash, leaf = path.removeprefix(VM_ROOT + "/").partition("/")
        if value is not None and slash and path.startswith(VM_ROOT + "/"):
            found.setdefault(vm, {})[leaf] = value
    return found


def settle(made: LabelPlan, state: State) -> Steps[None]:
    """Drop from a plan what clashes with other VMs of the tree, or with itself. The tree is afterwards as before.

    All is tried at once, because mostly nothing clashes. Otherwise each VM is tried on top of those before it: those
    that are there keep what they have.
    """
    undo, reasons = yield from state.put_steps(made.master_changes)
    yield from state.undo_steps(undo)
    if not reasons:
        return
    undone: list[Changes] = []
    for vm in made.order:
        undo, reasons = yield from state.put_steps(_by_path({vm: made.master[vm]}))
        if reasons:
            yield from state.undo_steps(undo)
            made.drop(vm, "; ".join(reason.partition("): ")[2] or reason for reason in reasons))
        else:
            undone.append(undo)
    for undo in reversed(undone):
        yield from state.undo_steps(undo)
