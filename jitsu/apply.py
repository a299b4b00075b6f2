"""Make the store's configuration what jitsu.toml or the command line says."""

from __future__ import annotations

import getpass
import uuid
from typing import TYPE_CHECKING

from jitsu_protocol.messages import MASTER, Applied, Apply, Change
from jitsu_protocol.vm import VM_ROOT, to_tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jitsu.link import Link
    from jitsu_protocol.vm import VM

APPLY_TIMEOUT_S = 60.0


def operator() -> str:
    """Return who asks, if nobody says."""
    try:
        return f"operator:{getpass.getuser()}"
    except (KeyError, OSError):
        return "operator:unknown"  # a container's user without a name


def changes_for(vms: Iterable[VM], leaves: Mapping[str, str], *, exact: bool = False) -> list[Change]:
    """Return what makes these VMs stand in the tree as they are given; `exact` removes other VMs."""
    wanted: dict[str, str] = {}
    uuids = set()
    for vm in vms:
        wanted |= to_tree(vm)
        uuids.add(vm.uuid)
    changes = [Change(path=p, value=v, old=leaves.get(p)) for p, v in wanted.items() if leaves.get(p) != v]
    for path, value in leaves.items():
        uuid, _, rest = path.removeprefix(VM_ROOT + "/").partition("/")
        if rest and path not in wanted and (exact or uuid in uuids):
            changes.append(Change(path=path, value=None, old=value))
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


async def commit(
    link: Link,
    changes: list[Change],
    message: str,
    author: str,
    branch: str = MASTER,
    expect: Mapping[str, str | None] | None = None,
    base: str = "",
) -> Applied:
    """Commit changes; `expect` and `base` are preconditions, see Apply."""
    request = Apply(
        changes=changes,
        author=author,
        message=message,
        request=uuid.uuid4().hex[:16],
        branch=branch,
        expect=dict(expect or {}),
        base=base,
    )
    return await link.call("store", request, Applied, APPLY_TIMEOUT_S)
