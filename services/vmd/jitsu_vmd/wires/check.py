"""`jitsu-vmd --check`: hypervisors look at the VMs of a file; nothing is started, nothing is bound.

A hypervisor is opened for that, and one that does not answer is reported. A kind whose opening may start a process that
runs guests is not opened (HypervisorKind.about.starts_when_opened): it finds mistakes without that.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from jitsu_protocol.model.errors import JitsuError, Refused
from jitsu_vmd.rules.interfaces import check_addresses
from jitsu_vmd.wires.hypervisors import EXAMINE_LIMIT_S, hypervisor_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jitsu_protocol.model.hypervisors import HypervisorKind
    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.hypervisor import Examined, Hypervisor

OPEN_LIMIT_S = 5.0


async def looked_at(
    hypervisors: Mapping[str, Hypervisor], kinds: Mapping[str, HypervisorKind], vms: Sequence[VM]
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
            examined = await _examined(backend, theirs, opens=not kinds[name].about.starts_when_opened)
        except (JitsuError, TimeoutError) as error:
            silent[backend.name] = str(error) or "it does not answer"
            examined = {}
        for vm in theirs:
            found = examined.get(vm.uuid)
            fault = _refusal(backend.check, vm) or (found.mistake if found else "") or _refusal(check_addresses, vm)
            if fault:
                refusals[vm.uuid] = fault
            if found:
                writes_to_disk[vm.uuid] = found.writes_to_disk
    return {"refusals": refusals, "writes_to_disk": writes_to_disk, "silent": silent}


def _refusal(check: Callable[[VM], None], vm: VM) -> str:
    try:
        check(vm)
    except Refused as refused:
        return str(refused)
    return ""


async def _examined(backend: Hypervisor, vms: Sequence[VM], *, opens: bool) -> dict[str, Examined]:
    if opens:
        async with asyncio.timeout(OPEN_LIMIT_S):
            await backend.open()
    async with asyncio.timeout(EXAMINE_LIMIT_S):
        return await backend.examine(vms)
