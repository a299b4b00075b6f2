"""One row for each VM: what the store has about it, joined with what the vmd of its host reports."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from jitsu_protocol.model.vm import STATS_ROOT, VM_ROOT, InvalidVm, from_tree

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from jitsu_protocol.messages import VmStatus

UNKNOWN = "unknown"
"""The state of a VM whose vmd does not answer."""
INVALID = "invalid"
"""The state of a VM whose configuration cannot be used: all services leave it out."""


def status_rows(
    vms: Sequence[VmStatus], leaves: Mapping[str, str], now: float, silent_hosts: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Return a row for each VM, by name.

    `leaves` are those below jitsu/vm and jitsu/stats. A VM that no vmd knows has a row that says why.
    """
    configured, statistics = below(leaves, VM_ROOT), below(leaves, STATS_ROOT)
    rows = [row_of(vm, configured.get(vm.uuid, {}), statistics.get(vm.uuid, {}), now) for vm in vms]
    for uuid in configured.keys() - {vm.uuid for vm in vms}:
        rows.append(row_of_unknown(uuid, configured[uuid], statistics.get(uuid, {}), now, silent_hosts))
    return sorted(rows, key=lambda row: (row["name"], row["uuid"]))


def below(leaves: Mapping[str, str], root: str) -> dict[str, dict[str, str]]:
    """Return leaves by the name right below a path, and the path below that."""
    found: dict[str, dict[str, str]] = {}
    start = root + "/"
    for path, value in leaves.items():
        if path.startswith(start):
            uuid, _, rest = path[len(start) :].partition("/")
            found.setdefault(uuid, {})[rest] = value
    return found


def row_of(vm: VmStatus, own: Mapping[str, str], stats: Mapping[str, str], now: float) -> dict[str, Any]:
    """Return the row of a VM that its vmd knows, from the leaves below its paths; `now` is Unix time."""
    return {
        "name": vm.name,
        "uuid": vm.uuid,
        "state": vm.state.value,
        "host": vm.host,
        **_from_store(own, stats, now),
        "uptime_s": None if vm.up_s is None else max(vm.up_s, 0.0),
        "starts": vm.starts,
        "last_error": vm.last_error,
        "retry_after_s": vm.retry_after_s,
        "waits_for": vm.waits_for,
        "hold": vm.hold,
        "kept": vm.kept,
        "asleep": vm.asleep,
    }


def row_of_unknown(
    uuid: str, own: Mapping[str, str], stats: Mapping[str, str], now: float, silent_hosts: Collection[str]
) -> dict[str, Any]:
    """Return the row of a VM that the store knows and no vmd; it says why."""
    host, state = own.get("host", own.get("config/host/0", "")), UNKNOWN
    try:
        from_tree(uuid, own)
        error = f"vmd{f' of {host}' if host else ''} does not answer"
        if host not in silent_hosts:
            error = f"vmd{f' of {host}' if host else ''} does not know this VM yet"
    except InvalidVm as fault:
        state, error = INVALID, str(fault)
    return {
        "name": configured_name(own) or uuid,
        "uuid": uuid,
        "state": state,
        "host": host,
        **_from_store(own, stats, now),
        "uptime_s": None,
        "starts": int(number(stats.get("total_starts", ""))),
        "last_error": error,
        "retry_after_s": None,
        "waits_for": "",
        "hold": "",
        "kept": "",
        "asleep": "",
    }


def _from_store(own: Mapping[str, str], stats: Mapping[str, str], now: float) -> dict[str, Any]:
    names = dns_names(own)
    last = max((number(stats.get(f"dns/{name}/last_request_ts", "")) for name in names), default=0.0)
    return {
        "names": names,
        "address": own.get("ip", own.get("config/ip/0", "")),
        "queries": int(sum(number(stats.get(f"dns/{name}/total_requests", "")) for name in names)),
        "idle_s": max(now - last, 0.0) if last else None,  # the clock may have been set back
    }


def configured_name(own: Mapping[str, str]) -> str:
    """Return a VM's name from the leaves below its path, as from_tree does; "" if it has none."""
    given = own.get("config/name/0") or own.get("config/dns/0") or min(dns_names(own), default="")
    return given.removeprefix("*.")


def dns_names(own: Iterable[str]) -> list[str]:
    """Return a VM's DNS names from the paths below its own."""
    return sorted(path[4:-4] for path in own if path.startswith("dns/") and path.endswith("/ttl"))


def number(text: str) -> float:
    """Return a statistic, 0 if somebody has written something else there."""
    try:
        value = float(text or 0)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0
