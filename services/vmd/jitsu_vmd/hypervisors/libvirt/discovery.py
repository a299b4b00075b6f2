"""The domains that a libvirt has, for `jitsu discover` and for labels: their metadata, and what leases and agents say.

A domain's own description is XML that its owner has written. The leases come from libvirt's networks, one call for
each. A guest's agent is asked only if no lease tells its address, and a guest that does not answer hides nothing.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jitsu_protocol.model.errors import JitsuError
from jitsu_vmd.hypervisor import Discovered, Nic
from jitsu_vmd.hypervisors.libvirt import rules

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_vmd.hypervisors.libvirt.connections import Connections
    from jitsu_vmd.hypervisors.shared.threads import Threads

LIST_LIMIT_S = 3.0
AGENT_LIMIT_S = 1.0
MAX_AGENTS = 16
"""How many guest agents are asked at once. Each takes a thread; an agent that hangs keeps it for seconds."""


async def discover(uri: str, connections: Connections, threads: Threads) -> Sequence[Discovered]:
    """Return all domains."""
    otherwise = f"{uri} does not answer"
    found = await threads.within(LIST_LIMIT_S, otherwise, lambda: _domains(connections))
    asked = [uuid for uuid, (machine, has_agent) in found.items() if has_agent and not machine.addresses][:MAX_AGENTS]
    answers = await asyncio.gather(*(_ask_agent(connections, threads, uuid) for uuid in asked))
    addresses = dict(zip(asked, answers, strict=True))
    return [
        replace(machine, addresses=addresses[uuid]) if uuid in addresses else machine
        for uuid, (machine, _) in found.items()
    ]


def _domains(connections: Connections) -> dict[str, tuple[Discovered, bool]]:
    """Return all domains by uuid, each with whether its guest's agent is connected."""
    library, connection = connections.library, connections.mine()
    leases = _leases(library, connection)
    found = {}
    for domain in connection.listAllDomains(0):
        try:
            xml = domain.XMLDesc(0)
            is_running = bool(domain.isActive()) and domain.state()[0] == library.VIR_DOMAIN_RUNNING
        except library.libvirtError:
            if not connection.isAlive():
                raise
            continue  # it is gone since the list was made
        nics = tuple(Nic(*each) for each in rules.nics(xml))
        addresses = tuple(dict.fromkeys(each for nic in nics for each in leases.get(nic.mac, ())))
        name, uuid = domain.name(), domain.UUIDString()
        machine = Discovered(name, uuid, is_running, nics, addresses, keys=rules.labels(xml))
        found[uuid] = (machine, is_running and rules.has_agent(xml))
    return found


def _leases(library: Any, connection: Any) -> dict[str, list[str]]:
    """Return the addresses that libvirt's networks have given out, or would, by MAC address; fixed ones first."""
    found: dict[str, list[str]] = {}
    with suppress(library.libvirtError):  # a driver without networks
        for network in connection.listAllNetworks(0):
            with suppress(library.libvirtError):  # it is not active, or gone
                for mac, address in rules.fixed_addresses(network.XMLDesc(0)):
                    found.setdefault(mac, []).append(address)
                for lease in network.DHCPLeases():
                    found.setdefault(str(lease["mac"]).lower(), []).append(str(lease["ipaddr"]))
    return found


async def _ask_agent(connections: Connections, threads: Threads, uuid: str) -> tuple[str, ...]:
    def ask() -> tuple[str, ...]:
        library = connections.library
        domain = connections.mine().lookupByUUIDString(uuid)
        interfaces = domain.interfaceAddresses(library.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT) or {}
        return tuple(
            str(each["addr"])
            for name, interface in interfaces.items()
            if name != "lo"
            for each in interface.get("addrs") or ()
        )

    try:
        return await threads.within(AGENT_LIMIT_S, "the guest's agent does not answer", ask)
    except JitsuError:
        return ()
