"""`jitsu-vmd --check`: hypervisors look at the VMs of a file; nothing is started, nothing is bound.

opens for that     libvirt, libxl, xapi: they are asked for domains; a hypervisor that does not answer is reported
needs no opening   the mock kinds and solo5: opening them would start a process that runs guests
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from jitsu_protocol.model.errors import JitsuError
from jitsu_vmd.rules.means import of_addresses
from jitsu_vmd.wires.hypervisors import EXAMINE_LIMIT_S, hypervisor_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.hypervisor import Examined, Hypervisor

OPENED = frozenset({"libvirt", "libxl", "xapi"})
OPEN_LIMIT_S = 5.0


async def looked_at(
    hypervisors: Mapping[str, Hypervisor], kinds: Mapping[str, str], vms: Sequence[VM]
) -> dict[str, Any]:
    """Return what is wrong with VMs: `refusals` by uuid, which `writes_to_disk`, and the `silent` hypervisors.

    `hypervisors` and `kinds` are by the name of the connection, "" for that of [hypervisor].
    """
    silent: dict[str, str] = {}
    refusals: dict[str, str] = {}
    writes_to_disk: dict[str, bool] = {}
    by_name: dict[str, list[VM]] = {}
    for vm in vms:
        by_name.setdefault(hypervisor_name(vm), []).append(vm)
    for name, theirs in by_name.items():
        if name not in hypervisors:
            fault = f"hypervisor: {name} is not listed in hypervisor.connections"
            refusals |= {vm.uuid: fault for vm in theirs}
            continue
        backend = hypervisors[name]
        try:
            examined = await _examined(backend, theirs, opens=kinds[name] in OPENED)
        except (JitsuError, TimeoutError) as error:
            silent[backend.name] = str(error) or "it does not answer"
            examined = {}
        for vm in theirs:
            found = examined.get(vm.uuid)
            if fault := backend.refusal(vm) or (found.mistake if found else "") or of_addresses(vm):
                refusals[vm.uuid] = fault
            if found:
                writes_to_disk[vm.uuid] = found.writes_to_disk
    return {"refusals": refusals, "writes_to_disk": writes_to_disk, "silent": silent}


async def _examined(backend: Hypervisor, vms: Sequence[VM], *, opens: bool) -> dict[str, Examined]:
    if opens:
        async with asyncio.timeout(OPEN_LIMIT_S):
            await backend.open()
    async with asyncio.timeout(EXAMINE_LIMIT_S):
        return await backend.examine(vms)
