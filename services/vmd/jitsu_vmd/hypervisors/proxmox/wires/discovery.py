"""Lists the machines of Proxmox VE, with addresses and keys, for `jitsu discover` and for labels."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import JitsuError
from jitsu_vmd.hypervisor import Discovered
from jitsu_vmd.hypervisors.proxmox.rules import hardware

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_vmd.hypervisors.proxmox.rules.machines import PveMachine
    from jitsu_vmd.hypervisors.proxmox.wires.looks import PveLooks

DISCOVER_LIMIT_S = 4.0
MAX_ASKED = 300
"""Machines whose configuration and addresses are asked for; the others are listed by name."""


async def discovered(looks: PveLooks) -> Sequence[Discovered]:
    """Return all machines, with addresses as far as configuration, agents and nodes tell; raises JitsuError."""
    cluster = await looks.refresh()
    machines = sorted(cluster.machines.values(), key=lambda each: each.vmid)
    asked = [each for each in machines if not cluster.why_unseen(each)][:MAX_ASKED]
    found = {each.vmid: _plain(looks, each, is_asked=each in asked) for each in machines}

    async def ask(machine: PveMachine) -> None:
        found[machine.vmid] = await _described(looks, machine, found[machine.vmid])

    tasks = [asyncio.ensure_future(ask(machine)) for machine in asked]
    try:
        if tasks:
            done, _ = await asyncio.wait(tasks, timeout=DISCOVER_LIMIT_S)
            for each in done:
                each.result()
    finally:
        for each in tasks:
            each.cancel()
    return list(found.values())


def _plain(looks: PveLooks, machine: PveMachine, *, is_asked: bool) -> Discovered:
    is_clear = len(looks.cluster.named.get(machine.name, ())) == 1 and not machine.name.isdecimal()
    name = machine.name if is_clear else str(machine.vmid)
    keys = hardware.keys_of(machine.tags, "")
    return Discovered(name, is_running=machine.status == "running", keys=keys, is_read=is_asked)


async def _described(looks: PveLooks, machine: PveMachine, plain: Discovered) -> Discovered:
    try:
        config = await looks.config(machine)
    except JitsuError:
        return replace(plain, is_read=False)
    addresses = hardware.fixed_addresses(config)
    if plain.is_running:
        agent = "agent/network-get-interfaces" if machine.type == "qemu" else "interfaces"
        addresses += hardware.reported_addresses(await looks.ask(f"{machine.path}/{agent}"))
    return Discovered(
        plain.name,
        is_running=plain.is_running,
        nics=hardware.nics_of(machine, config, is_here=False),
        addresses=tuple(dict.fromkeys(addresses)),
        keys=hardware.keys_of(machine.tags, config.get("description")),
    )
