"""Who may write what. A refusal names the rule that was broken.

operator   everything
service    its own statistics below jitsu/stats/; the reaper also who its replicas are, below jitsu/replica/;
           vmd also the VMs that labels describe (labels.py)
VM         its own keys of which keys.py says `set_by="vm"`, and the TTL of names that an operator gave it or that lie
           below one of those; on branches that begin with its uuid, which it may merge into master
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from jitsu_protocol.messages import MASTER
from jitsu_protocol.model.identity import Role
from jitsu_protocol.model.vm import REPLICA_ROOT, STATS_ROOT, VM_ROOT, key_of_leaf
from jitsu_protocol.model.vm_keys import KEYS, owner_name
from jitsu_store.rules.tree import is_below, path_fault

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from jitsu_protocol.model.identity import Identity

_STATISTICS = {"vmd": {"start_ts", "total_starts"}, "reaper": {"last_request_ts", "last_ttl", "total_requests"}}
"""Service -> what it records: vmd of a VM, the reaper of each of its names."""
_NUMBER = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,9})?", re.ASCII)


def write_refusal(who: Identity, branch: str, paths: Iterable[str], names: Collection[str] = ()) -> str:
    """Return why somebody may not change these paths of a branch, or nothing; `names` are as of `names_of`."""
    match who.role:
        case Role.OPERATOR:
            return ""
        case Role.SERVICE:
            for path in paths:
                if branch != MASTER or not (who.name == "reaper" and is_below(path, REPLICA_ROOT)):
                    return f"a service writes only its statistics, not {path} on {branch}"
            return ""
        case Role.VM:
            return branch_refusal(who, branch) or _paths_refusal(who, paths, names)


def record_refusal(service: str, values: Mapping[str, str]) -> str:
    """Return why a service may not record these statistics, or nothing.

    Only paths of one form pass, so that no statistic can stand in the way of another one's commit.
    """
    for path, value in values.items():
        if path_fault(path) or not _is_statistic(service, path):
            return f"{service} writes only its own statistics below {STATS_ROOT}/, not {path[:100]!r}"
        if not _NUMBER.fullmatch(value):
            return f"a statistic is a number, not {value[:50]!r} ({path[:100]})"
    return ""


def vm_of_statistic(path: str) -> str:
    """Return the UUID of the VM that a statistic is about."""
    return path.removeprefix(STATS_ROOT + "/").partition("/")[0]


def _is_statistic(service: str, path: str) -> bool:
    match path.removeprefix(STATS_ROOT + "/").split("/"):
        case [_, leaf] if service == "vmd":
            return path.startswith(STATS_ROOT + "/") and leaf in _STATISTICS["vmd"]
        case [_, "dns", _, leaf] if service == "reaper":
            return path.startswith(STATS_ROOT + "/") and leaf in _STATISTICS["reaper"]
        case _:
            return False


def merge_refusal(who: Identity, branch: str, into: str, paths: Iterable[str], names: Collection[str] = ()) -> str:
    """Return why somebody may not merge a branch that changes these paths, or nothing; `names` as of `names_of`."""
    match who.role:
        case Role.OPERATOR:
            return ""
        case Role.SERVICE:
            return "a service does not merge branches"
        case Role.VM:
            target = "" if into == MASTER else branch_refusal(who, into)
            return branch_refusal(who, branch) or target or _paths_refusal(who, paths, names)


def branch_refusal(who: Identity, branch: str) -> str:
    """Return why somebody may not make, change or delete a branch, or nothing."""
    match who.role:
        case Role.OPERATOR:
            return ""
        case Role.SERVICE:
            return "a service has no branches"
        case Role.VM:
            own = branch == who.name or branch.startswith(who.name + "-")
            return "" if own else f"a VM writes only on branches that begin with its uuid, not on {branch}"


def operator_refusal(who: Identity, what: str) -> str:
    """Return why somebody may not do what only operators do, or nothing."""
    return "" if who.role is Role.OPERATOR else f"only an operator may {what}"


def names_of(who: Identity, leaves: Mapping[str, str]) -> frozenset[str]:
    """Return the DNS names that a VM has on master; `leaves` are those below `jitsu/vm/<its uuid>`."""
    start = f"{VM_ROOT}/{who.name}/"
    names = set()
    for path, value in leaves.items():
        match path.removeprefix(start).split("/"):
            case ["config", "dns", _]:
                names.add(value)
            case ["dns", name, "ttl"]:
                names.add(name)
    return frozenset(map(_canonical, names))


def _paths_refusal(who: Identity, paths: Iterable[str], names: Collection[str]) -> str:
    start = f"{VM_ROOT}/{who.name}/"
    for path in paths:
        leaf = path.removeprefix(start)
        if leaf == path:
            return f"a VM writes only below {start}, not at {path[:100]}"
        key = key_of_leaf(leaf)
        if not key or KEYS[key].set_by != "vm":
            return f"a VM may not change its {key or leaf[:100]}; only an operator may"
        if leaf.startswith("dns/") and not _is_own(leaf.split("/")[1], names):
            allowed = ", ".join(sorted(names)) or "none"
            return f"a VM may not have the name {leaf.split('/')[1]}: its names are {allowed}, and those below them"
    return ""


def _is_own(name: str, names: Collection[str]) -> bool:
    """Say whether a name is one of these or lies below one; below `*.a.b` lies all that ends in `.a.b`."""
    name = _canonical(name)
    return name in names or any(name.endswith("." + held.removeprefix("*.")) for held in names)


def _canonical(name: str) -> str:
    try:
        return owner_name(name)
    except ValueError:
        return name
