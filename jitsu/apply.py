"""Make the store's configuration what jitsu.toml or the command line says."""

from __future__ import annotations

import getpass
import sys
import uuid
from typing import TYPE_CHECKING

from jitsu_protocol.messages import MASTER, Applied, Apply, Change, Check, Checked
from jitsu_protocol.model.errors import Refused, Unavailable, UnknownKind
from jitsu_protocol.model.vm import VM_ROOT, to_tree

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from jitsu.link import Link
    from jitsu_protocol.model.vm import VM

APPLY_TIMEOUT_S = 60.0
CHECK_TIMEOUT_S = 10.0
CHECKED_AT_ONCE = 500


def operator() -> str:
    """Return who asks, unless --as names somebody."""
    try:
        return f"operator:{getpass.getuser()}"
    except (KeyError, OSError):
        return "operator:unknown"  # a container's user without a name


def change_lines(changes: Iterable[Change]) -> list[str]:
    """Return the changes for people: - old, + new."""
    lines = []
    for change in sorted(changes, key=lambda each: each.path):
        if change.old is not None:
            lines.append(f'- {change.path} "{change.old}"')
        if change.value is not None:
            lines.append(f'+ {change.path} "{change.value}"')
    return lines


async def check(
    link: Link, changes: Iterable[Change], leaves: Mapping[str, str], *, force: bool = False
) -> dict[str, bool]:
    """See whether hypervisors could run the VMs that these changes of leaves lead to.

    Raises Refused with a line for each that could not and, as far as is known, could before, unless with `force`.
    A change that fixes one of several mistakes is accepted, and the others are shown. Returns which of the VMs have a
    disk that they write to, as far as vmd knows.
    """
    after = dict(leaves)
    changed = set()
    for change in changes:
        if change.path.startswith(VM_ROOT + "/"):
            changed.add(change.path.removeprefix(VM_ROOT + "/").partition("/")[0])
        if change.value is None:
            after.pop(change.path, None)
        else:
            after[change.path] = change.value
    vms = _by_vm(after, changed)
    checked = await _checked(link, vms)
    found = {} if force else checked.refusals
    earlier = (await _checked(link, _by_vm(leaves, found.keys()))).refusals if found else {}
    lines = {vm: f"{_name(vms[vm], vm)}: {reason}" for vm, reason in found.items()}
    if refused := sorted(line for vm, line in lines.items() if vm not in earlier):
        raise Refused("; ".join(refused), hint="with --force it is done all the same")
    for line in sorted(lines.values()):
        print(f"warning: {line} (as before this change)", file=sys.stderr)
    return checked.writes_to_disk


async def mistakes_of(link: Link, vms: Iterable[VM]) -> list[str]:
    """Return a note for each VM that its hypervisor could not run as it is, or in which it has found a mistake."""
    leaves = {path: value for vm in vms for path, value in to_tree(vm).items()}
    by_vm = _by_vm(leaves, {path.removeprefix(VM_ROOT + "/").partition("/")[0] for path in leaves})
    found = (await _checked(link, by_vm)).refusals
    return sorted(f"note: {_name(by_vm[vm], vm)}: {reason}" for vm, reason in found.items())


async def _checked(link: Link, vms: Mapping[str, Mapping[str, str]]) -> Checked:
    """Return what the vmds of all hosts say about VMs; prints it where one cannot be asked now."""
    by_host: dict[str, list[str]] = {}
    for vm, own in vms.items():
        by_host.setdefault(own.get("host", ""), []).append(vm)
    refusals: dict[str, str] = {}
    writes_to_disk: dict[str, bool] = {}
    for host, theirs in by_host.items():
        if host not in link.hosts:
            refusals |= dict.fromkeys(theirs, f"host: {host} is not listed in bus.hosts")
            continue
        try:
            for n in range(0, len(theirs), CHECKED_AT_ONCE):
                part = {vm: dict(vms[vm]) for vm in theirs[n : n + CHECKED_AT_ONCE]}
                answer = await link.call("vmd", Check(vms=part), Checked, CHECK_TIMEOUT_S, host)
                refusals |= answer.refusals
                writes_to_disk |= answer.writes_to_disk
        except (Unavailable, UnknownKind) as error:
            print(f"not checked whether a hypervisor can run them: {error}", file=sys.stderr)
    return Checked(refusals=refusals, writes_to_disk=writes_to_disk)


def _by_vm(leaves: Mapping[str, str], vms: Collection[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for path, value in leaves.items():
        vm, _, leaf = path.removeprefix(VM_ROOT + "/").partition("/")
        if vm in vms:
            found.setdefault(vm, {})[leaf] = value
    return found


def _name(leaves: Mapping[str, str], vm: str) -> str:
    return leaves.get("config/name/0") or leaves.get("config/dns/0") or vm


async def commit(
    link: Link,
    changes: list[Change],
    message: str,
    author: str,
    branch: str = MASTER,
    expect: Mapping[str, str | None] | None = None,
) -> Applied:
    """Commit changes; `expect` are preconditions, see Apply."""
    request = Apply(
        changes=changes,
        author=author,
        message=message,
        request=uuid.uuid4().hex[:16],
        branch=branch,
        expect=dict(expect or {}),
    )
    return await link.call("store", request, Applied, APPLY_TIMEOUT_S)
