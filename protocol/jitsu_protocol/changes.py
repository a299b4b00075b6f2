"""Which changes of the state tree make it describe given VMs, and what they presuppose."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.messages import Change
from jitsu_protocol.model.effect import effect
from jitsu_protocol.model.vm import VM_ROOT, InvalidVm, from_tree, to_tree
from jitsu_protocol.rows import below

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jitsu_protocol.model.vm import VM


def changes_for(
    vms: Iterable[VM], leaves: Mapping[str, str], *, exact: bool = False, of_labels: Mapping[str, str] | None = None
) -> list[Change]:
    """Return the changes that make the tree describe these VMs; `exact` removes other VMs.

    A VM that is there already with the same effect is left as it is written. One that is not given and that labels
    describe (`of_labels`, by path) becomes what they say instead of being removed.
    """
    there = below(leaves, VM_ROOT)
    changes, given = [], set()
    for vm in vms:
        given.add(vm.uuid)
        start = f"{VM_ROOT}/{vm.uuid}/"
        own = {start + path: value for path, value in there.get(vm.uuid, {}).items()}
        wanted = to_tree(vm)
        if own == wanted or (own and _has_effect(vm, there[vm.uuid])):
            continue
        changes += [Change(path=path, value=value, old=own.get(path)) for path, value in wanted.items()]
        changes += [Change(path=path, value=None, old=value) for path, value in own.items() if path not in wanted]
    described = below(of_labels or {}, VM_ROOT)
    for gone in there.keys() - given if exact else ():
        start, own, to = f"{VM_ROOT}/{gone}/", there[gone], described.get(gone, {})
        changes += [Change(path=start + path, value=to.get(path), old=own.get(path)) for path in {**own, **to}]
    return [change for change in changes if change.value != change.old]


def _has_effect(vm: VM, own: Mapping[str, str]) -> bool:
    try:
        return effect(from_tree(vm.uuid, own)) == effect(vm)
    except InvalidVm:
        return False


def expectations(changes: Iterable[Change]) -> dict[str, str | None]:
    """Return the preconditions of changes: the values that they were made from, and that new VMs are still not there.

    What nobody has looked at, such as statistics, may change in the meantime.
    """
    return {
        change.path: change.old
        for change in changes
        if change.old is not None or (change.path.startswith(VM_ROOT + "/") and change.path.endswith("/ip"))
    }
