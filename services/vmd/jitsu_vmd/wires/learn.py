"""What the store knows of one VM, for a vmd that has just started and has not read of all of them yet."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from jitsu_protocol.messages import Leaves, List
from jitsu_protocol.model.inventory import Inventory, check_durations
from jitsu_protocol.model.vm import STATS_ROOT, VM_ROOT
from jitsu_protocol.model.vm_keys import mac_address
from jitsu_vmd.rules.admission import memory

if TYPE_CHECKING:
    from jitsu_protocol.model.inventory import VmChanged
    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.world import Caller

LIMIT_S = 5.0


def check(host: str, vm: VM) -> None:
    """Raise ValueError if vmd cannot keep a VM of this host: it is left out, and the others go on.

    A VM that only its hypervisor cannot run is kept, and its summons are refused with the reason.
    """
    if vm.host == host:
        check_durations(vm)
        mac_address(vm.mac)  # of each VM's status
        memory(vm)


async def learn(store: Caller, vm: str, host: str) -> tuple[list[VmChanged], dict[str, str]]:
    """Return the VM with this UUID as one that came, if it is configured, and its statistics (path -> value)."""
    about_vm = List(prefix=f"{VM_ROOT}/{vm}", topic="vm")
    about_starts = List(prefix=f"{STATS_ROOT}/{vm}", topic="stats")
    configured, counted = await asyncio.gather(
        store.call(about_vm, Leaves, LIMIT_S), store.call(about_starts, Leaves, LIMIT_S)
    )
    return Inventory(partial(check, host)).reset(configured.leaves), counted.leaves
