"""Make the store's configuration what jitsu.toml or the command line says."""

from __future__ import annotations

import getpass
import uuid
from typing import TYPE_CHECKING

from jitsu_protocol.messages import Applied, Apply, Change
from jitsu_protocol.vm import VM_ROOT, to_tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from jitsu.link import Link
    from jitsu_protocol.vm import VM

APPLY_TIMEOUT_S = 60.0


def author() -> str:
    """Return who asks."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "operator"  # a container's user without a name


def changes_for(vms: Iterable[VM], leaves: Mapping[str, str]) -> list[Change]:
    """Return what makes these VMs stand in the tree as they are given; other VMs stay as they are."""
    changes = []
    for vm in vms:
        wanted = to_tree(vm)
        prefix = f"{VM_ROOT}/{vm.uuid}/"
        changes += [Change(path=p, value=v, old=leaves.get(p)) for p, v in wanted.items() if leaves.get(p) != v]
        changes += [
            Change(path=path, value=None, old=value)
            for path, value in leaves.items()
            if path.startswith(prefix) and path not in wanted
        ]
    return changes


def change_lines(changes: Iterable[Change]) -> list[str]:
    """Return the changes for people: - old, + new."""
    lines = []
    for change in sorted(changes, key=lambda each: each.path):
        if change.old is not None:
            lines.append(f'- {change.path} "{change.old}"')
        if change.value is not None:
            lines.append(f'+ {change.path} "{change.value}"')
    return lines


async def apply(link: Link, vms: Sequence[VM], message: str) -> list[Change]:
    """Commit these VMs; returns what has changed."""
    changes = changes_for(vms, await link.leaves(VM_ROOT))
    if changes:
        await commit(link, changes, message)
    return changes


async def commit(link: Link, changes: list[Change], message: str) -> Applied:
    """Commit changes as the user that runs this."""
    request = Apply(changes=changes, author=author(), message=message, request=uuid.uuid4().hex)
    return await link.call("store", request, Applied, APPLY_TIMEOUT_S)
