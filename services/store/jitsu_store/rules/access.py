"""Who may write what. A refusal says which rule stands against it.

operator   everything
service    its own statistics below jitsu/stats/; the reaper also who its replicas are, below jitsu/replica/
VM         below jitsu/vm/<its uuid>/, on branches that begin with its uuid; what is there it may merge into master
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.identity import Role
from jitsu_protocol.messages import MASTER
from jitsu_protocol.vm import REPLICA_ROOT, STATS_ROOT, VM_ROOT
from jitsu_store.rules.tree import is_below

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jitsu_protocol.identity import Identity

_STATISTICS = {"vmd": {"start_ts", "total_starts"}, "reaper": {"last_request_ts", "total_requests"}}


def write_refusal(who: Identity, branch: str, paths: Iterable[str]) -> str:
    """Return why somebody may not change these paths of a branch, or nothing."""
    match who.role:
        case Role.OPERATOR:
            return ""
        case Role.SERVICE:
            for path in paths:
                if branch != MASTER or not (who.name == "reaper" and is_below(path, REPLICA_ROOT)):
                    return f"a service writes only its statistics, not {path} on {branch}"
            return ""
        case Role.VM:
            return branch_refusal(who, branch) or _paths_refusal(who, paths)


def record_refusal(service: str, paths: Iterable[str]) -> str:
    """Return why a service may not record these statistics, or nothing."""
    for path in paths:
        if not path.startswith(STATS_ROOT + "/") or path.rpartition("/")[2] not in _STATISTICS.get(service, ()):
            return f"{service} writes only its own statistics below {STATS_ROOT}/, not {path[:100]!r}"
    return ""


def merge_refusal(who: Identity, branch: str, into: str, paths: Iterable[str]) -> str:
    """Return why somebody may not merge a branch that changes these paths, or nothing."""
    match who.role:
        case Role.OPERATOR:
            return ""
        case Role.SERVICE:
            return "a service does not merge branches"
        case Role.VM:
            target = "" if into == MASTER else branch_refusal(who, into)
            return branch_refusal(who, branch) or target or _paths_refusal(who, paths)


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


def _paths_refusal(who: Identity, paths: Iterable[str]) -> str:
    for path in paths:
        if not path.startswith(f"{VM_ROOT}/{who.name}/"):
            return f"a VM writes only below {VM_ROOT}/{who.name}/, not at {path}"
    return ""
