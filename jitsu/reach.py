"""Whether the guests of the mock hypervisors can be reached from this host at the addresses that they are given."""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

from jitsu.kinds import kind_of
from jitsu_protocol.model.hypervisors import HypervisorKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.settings.load import Settings

NAMES_SHOWN = 5


def unreachable(vm: VM, settings: Settings) -> str:
    """Return why a VM's mock guest cannot be reached from this host, "" if it can or if that is not known."""
    if vm.host != settings.hypervisor.host or settings.hypervisor.connect.startswith("/"):
        return ""  # its guests are on another machine
    kind = kind_of(vm, settings)
    if kind.about.is_on_loopback:
        strange = next((address for address in vm.addresses if not is_of_this_host(address)), None)
        if strange is not None:
            return f"{strange} is not an address of this host, where guests of the kind loopback are"
    elif kind is HypervisorKind.BRIDGE:
        bridge = vm.bridge or settings.hypervisor.bridge
        if not any(is_routed_to(address, bridge) for address in vm.addresses):
            return f"this host has no address in the network of {vm.addresses[0]} on the bridge {bridge}"
    return ""


def unreachable_lines(vms: Iterable[VM], settings: Settings) -> list[str]:
    """Return a note for VMs whose mock guests cannot be reached, and what to do about it."""
    found = [(vm, reason) for vm in vms if (reason := unreachable(vm, settings))]
    lines = [f"note: {vm.name} cannot be reached from here: {reason}" for vm, reason in found[:NAMES_SHOWN]]
    if len(found) > NAMES_SHOWN:
        lines.append(f"note: nor can {len(found) - NAMES_SHOWN} more")
    kinds = {kind_of(vm, settings) for vm, _ in found}
    if any(kind.about.is_on_loopback for kind in kinds):
        lines.append(
            "      Give it an address such as 127.0.2.1, or choose another hypervisor with hypervisor.kind"
            ' ("bridge" has mock guests with addresses of their own).'
        )
    if HypervisorKind.BRIDGE in kinds:
        lines.append("      Give the bridge one with hypervisor.bridge_addresses, or use a client on the bridge.")
    return lines


def is_of_this_host(address: IPv4Address | IPv6Address) -> bool:
    """Return whether a server on this host can have an address."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_STREAM) as server:
            server.bind((str(address), 0))
    except OSError as error:
        return error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
    return True


def is_routed_to(address: IPv4Address | IPv6Address, interface: str) -> bool:
    """Return whether the routing tables send an address to an interface directly (proc(5), /proc/net/route)."""
    table = Path("/proc/net", "route" if address.version == 4 else "ipv6_route")
    try:
        rows = [line.split() for line in table.read_text().splitlines()]
    except OSError:
        return True  # who does not know it says nothing
    if address.version == 4:
        networks = [
            ip_network(f"{_ipv4(row[1])}/{_ipv4(row[7])}")
            for row in rows[1:]
            if row[0] == interface and _ipv4(row[2]) == IPv4Address(0)
        ]
    else:
        networks = [ip_network((int(row[0], 16), int(row[1], 16))) for row in rows if row[-1] == interface]
    return any(address in network and network.prefixlen for network in networks)


def _ipv4(text: str) -> IPv4Address:
    """Return an address of /proc/net/route, whose bytes stand in the order of a little-endian number."""
    return IPv4Address(bytes.fromhex(text)[::-1])
