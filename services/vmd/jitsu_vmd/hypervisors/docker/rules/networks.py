"""Networks of an engine: their bridges, and which of them a VM's container is on."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING, Any

from jitsu_protocol.model.errors import Refused
from jitsu_vmd.hypervisors.docker.rules.keys import published

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Address, IPv6Address

    from jitsu_protocol.model.vm import VM

BRIDGE_OPTION = "com.docker.network.bridge.name"


@dataclass(frozen=True)
class Network:
    """A network of the engine."""

    name: str
    bridge: str = ""
    """Its bridge on the engine's host; "" if it has none, as a macvlan."""
    subnets: tuple[IPv4Network | IPv6Network, ...] = ()

    def has(self, address: IPv4Address | IPv6Address) -> bool:
        """Say whether an address is in one of its subnets."""
        return any(address in subnet for subnet in self.subnets)


def network(found: dict[str, Any]) -> Network:
    """Return a network as the engine describes it: Docker's form, or that of Podman's own API."""
    if "network_interface" in found or "subnets" in found:
        subnets = [each.get("subnet") for each in found.get("subnets") or ()]
        bridge = str(found.get("network_interface") or "") if found.get("driver") == "bridge" else ""
        return Network(str(found["name"]), bridge, _subnets(subnets))
    bridge = ""
    if found.get("Driver") == "bridge":
        bridge = str((found.get("Options") or {}).get(BRIDGE_OPTION) or f"br-{str(found['Id'])[:12]}")
    config = (found.get("IPAM") or {}).get("Config") or ()
    return Network(str(found["Name"]), bridge, _subnets(each.get("Subnet") for each in config))


def _subnets(texts: Iterable[Any]) -> tuple[IPv4Network | IPv6Network, ...]:
    found = []
    for text in texts:
        with suppress(ValueError):
            found.append(ip_network(str(text)))
    return tuple(found)


def network_of(vm: VM, networks: Iterable[Network]) -> Network | None:
    """Return the network that the container of a VM is made on; None for the engine's own default. Raises Refused.

    It is the one on the bridge that the VM names (`nic`), else the one in whose subnet the VM's address lies.
    A VM with published ports has an address of the host, which is in no subnet of a network.
    """
    if vm.bridge:
        for each in networks:
            if each.bridge == vm.bridge:
                return each
        raise Refused(
            f"nic: the engine has no network on a bridge {vm.bridge}; `docker network ls` lists its networks, and "
            f"`docker network create -o {BRIDGE_OPTION}={vm.bridge} ...` makes one"
        )
    if published(vm):
        return None
    for address in vm.addresses:
        for each in networks:
            if each.has(address):
                return each
    address = vm.addresses[0]
    raise Refused(
        f"ip: {address} is in no subnet of the engine's networks; make one, for example with "
        f"`docker network create --subnet {ip_network((address, 24 if address.version == 4 else 64), strict=False)} "
        f"jitsu`, or name a port of the container with publish if the address is one of the host's own"
    )
