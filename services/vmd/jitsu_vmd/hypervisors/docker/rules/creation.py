"""What a container is made of: the body of the request that makes it.

A container that was made is known by its labels: for which VM, and of what. Where that is no longer what the VM's keys
say, the container is made again when it starts next. Its own files are gone then; what it has on a `disk` stays.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from jitsu_protocol.model.errors import Refused
from jitsu_vmd.hypervisors.docker.rules.keys import command, mounts, published

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.hypervisors.docker.rules.networks import Network

MADE_FOR, MADE_OF = "jitsu-made-for", "jitsu-made-of"
"""Labels of containers that we make: the uuid of their VM, and a digest of the request that made them.

They do not begin with `jitsu.`, as the labels do with which people describe a VM.
"""


def request(vm: VM, network: Network | None, *, mac_of_endpoint: bool) -> dict[str, Any]:
    """Return the body that makes a VM's container on a network, None for the engine's default one; raises Refused.

    `mac_of_endpoint` says where the engine looks for its MAC address.
    """
    host: dict[str, Any] = {}
    body: dict[str, Any] = {"Image": vm.key("image"), "HostConfig": host}
    if words := command(vm):
        body["Cmd"] = words
    if "memory" in vm.config:
        host["Memory"] = vm.value("memory") * 1024
    if "vcpus" in vm.config:
        host["NanoCpus"] = vm.value("vcpus") * 10**9
    if disks := mounts(vm):
        host["Mounts"] = [
            {"Type": "bind" if source.startswith("/") else "volume", "Source": source, "Target": target}
            for source, target in disks
        ]
    if ports := published(vm):
        body["ExposedPorts"] = {inside: {} for _, inside in ports}
        bindings: dict[str, list[dict[str, str]]] = {}
        for outside, inside in ports:
            bindings.setdefault(inside, []).extend(
                {"HostIp": str(address), "HostPort": str(outside)} for address in vm.addresses
            )
        host["PortBindings"] = bindings
    if network is not None:
        _add_network(body, vm, network, mac_of_endpoint=mac_of_endpoint)
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]
    body["Labels"] = {MADE_FOR: vm.uuid, MADE_OF: digest}
    return body


def _add_network(body: dict[str, Any], vm: VM, network: Network, *, mac_of_endpoint: bool) -> None:
    """Put the container on its network, with the VM's addresses unless these are the host's."""
    body["HostConfig"]["NetworkMode"] = network.name
    endpoint: dict[str, Any] = {}
    if mac_of_endpoint:
        endpoint["MacAddress"] = vm.mac
    else:
        body["MacAddress"] = vm.mac
    if not published(vm):
        endpoint["IPAMConfig"] = _addresses(vm, network)
    body["NetworkingConfig"] = {"EndpointsConfig": {network.name: endpoint}}


def _addresses(vm: VM, network: Network) -> dict[str, str]:
    found: dict[str, str] = {}
    for address in vm.addresses:
        key = f"IPv{address.version}Address"
        if not network.has(address):
            raise Refused(f"ip: {address} is in no subnet of the network {network.name}; give the VM one that is")
        if key in found:
            raise Refused(
                f"ip: a container has one IPv{address.version} address on a network, not {found[key]} and {address}; "
                "remove one"
            )
        found[key] = str(address)
    return found
