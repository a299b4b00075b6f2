"""VMs that the model refuses today: what a service would meet if one value had slipped through."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from hypothesis import strategies as st

from jitsu_protocol.messages import VmStatus
from jitsu_protocol.model import inventory
from jitsu_protocol.model.inventory import Inventory
from jitsu_protocol.model.states import VmState
from jitsu_protocol.model.vm import VM, to_tree
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from collections.abc import Callable

    from jitsu_protocol.model.inventory import VmChanged

GOOD = make_vm("good", "10.0.0.1", ttl="10", wake_on_traffic="true", mac="02:00:00:00:00:01", response_delay="0")
"""Of a UUID that stands between those of FIRST and LAST, as VMs are taken in that order."""
FIRST = "00000000-0000-4000-8000-000000000001"
LAST = "ffffffff-ffff-4fff-8fff-ffffffffffff"

_NUMBERS = [float("nan"), float("inf"), -1.0]
_MACS = ["zz", "02:00", "", "ff:ff:ff:ff:ff:ff", GOOD.mac]
_DURATIONS = ("response_delay", "max_idle_connection", "idle_timeout", "max_wait", "boot_limit")
_CHANGES: list[dict[str, Any]] = [
    *({name: number} for name in _DURATIONS for number in _NUMBERS),
    *({"names": names} for names in ({}, {"odd.jitsu.test": -1}, {"odd.jitsu.test": 10**400})),
    *({"addresses": addresses} for addresses in ((), (IPv6Address("fe80::1%eth0"),))),
    *({"priority": priority} for priority in (10**400, -(10**400))),
    *({"config": {"mac": (mac,)}} for mac in _MACS),
    *({"config": {"memory": (text,)}} for text in ("", "x", "9" * 5000)),
    *({"config": {"nic": (text,)}} for text in ("\0", "../x", "x" * 5000)),
]


def odd_vms() -> st.SearchStrategy[VM]:
    """Return VMs with one value that makes no sense, some sorted before GOOD and some after it.

    There are few of them, so that Hypothesis tries each.
    """
    made = [
        make_vm("odd", "10.0.0.2", uuid=uuid, wake_on_traffic="true").model_copy(update=changes)
        for uuid in (FIRST, LAST)
        for changes in _CHANGES
    ]
    return st.sampled_from(made)


def odd_statuses(vm: str) -> st.SearchStrategy[VmStatus]:
    """Return what a vmd that has gone mad could say of a VM."""
    texts = st.sampled_from(["", "\0", "../../etc", "x" * 5000, "br\nd"])
    numbers = st.sampled_from([*_NUMBERS, 0.0, 5.0])
    return st.builds(
        VmStatus,
        uuid=st.just(vm),
        name=texts,
        state=st.sampled_from(VmState),
        mac=st.sampled_from(_MACS) | st.text(max_size=4),
        bridge=texts,
        interface=texts,
        drain=texts,
        addresses=st.lists(texts, max_size=2),
        up_s=st.none() | numbers,
        idle_s=st.none() | numbers,
        state_age_s=numbers,
        wants_room=st.booleans(),
    )


def told_of(check: Callable[[VM], object], *vms: VM) -> tuple[Inventory, list[VmChanged]]:
    """Return what a service that checks VMs so hears of these, whatever the model thinks of them."""
    by_uuid = {vm.uuid: vm for vm in vms}
    with patch.object(inventory, "from_tree", lambda uuid, _: by_uuid[uuid]):
        known = Inventory(check)
        return known, known.reset({path: value for vm in vms for path, value in _leaves(vm).items()})


def _leaves(vm: VM) -> dict[str, str]:
    return {path.replace(GOOD.uuid, vm.uuid): value for path, value in to_tree(GOOD).items()}
