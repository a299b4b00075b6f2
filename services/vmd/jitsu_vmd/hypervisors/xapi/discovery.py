"""The VMs that a pool has, for `jitsu discover` and for labels: `other_config` has their keys, as `jitsu.dns`.

`xe vm-param-set uuid=UUID other-config:jitsu.dns=web.example.org` writes one. Addresses are what the guest's tools
report.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jitsu_vmd.hypervisor import Discovered, Nic
from jitsu_vmd.hypervisors.xapi.pool import is_vm

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jitsu_vmd.hypervisors.xapi.sessions import Sessions

LABEL = "jitsu."


def machines(sessions: Sessions) -> Sequence[Discovered]:
    """Return all VMs of the pool, in four calls however many there are. Runs on a thread with its own session."""
    calls = sessions.mine().xenapi
    metrics = calls.VM_guest_metrics.get_all_records()
    vifs = calls.VIF.get_all_records()
    bridges = {ref: record["bridge"] for ref, record in calls.network.get_all_records().items()}
    return [
        _machine(record, metrics.get(record.get("guest_metrics", ""), {}), vifs, bridges)
        for record in calls.VM.get_all_records().values()
        if is_vm(record)
    ]


def _machine(
    record: Mapping[str, Any],
    metrics: Mapping[str, Any],
    vifs: Mapping[str, Mapping[str, Any]],
    bridges: Mapping[str, str],
) -> Discovered:
    own = sorted((vifs[ref] for ref in record["VIFs"] if ref in vifs), key=lambda vif: int(vif["device"]))
    config = record.get("other_config", {})
    return Discovered(
        record["name_label"],
        record["uuid"],
        record["power_state"] == "Running",
        tuple(Nic(vif["MAC"].lower(), bridges.get(vif["network"], "")) for vif in own),
        # "0/ip", "1/ipv4/0", "0/ipv6/1": device, kind, and the number of the address
        tuple(dict.fromkeys(address for _, address in sorted(metrics.get("networks", {}).items()))),
        keys={key.removeprefix(LABEL): value for key, value in config.items() if key.startswith(LABEL)},
    )
