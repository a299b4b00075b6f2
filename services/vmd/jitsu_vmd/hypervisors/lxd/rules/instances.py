"""Records of instances, as LXD has them: their interfaces, what is written beside them, and what one is made of."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jitsu_protocol.model.errors import Refused
from jitsu_vmd.hypervisor import Discovered, Nic
from jitsu_vmd.hypervisors.lxd.rules.keys import is_made
from jitsu_vmd.hypervisors.lxd.rules.states import config_of
from jitsu_vmd.hypervisors.shared.rules.spec import domain_spec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jitsu_protocol.model.vm import VM

OWNER, MADE_FROM, PARTS = "user.jitsu.uuid", "user.jitsu.image", "user.jitsu.parts"
"""Keys of an instance that was made for a VM: the VM's UUID, its `image`, and a digest of what else it was made of."""
KEYS_PREFIX = "user.jitsu."
NOT_KEYS = frozenset({"uuid", "image", "parts", "restoring", "discarded"})
"""Keys below the prefix that are Jitsu's own."""
NEVER_STARTED = "1970-01-01"
"""How the time begins at which an instance that has never run was last used; Incus writes the year 1."""


def devices(instance: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return an instance's network interfaces by the name of the device, those of its profiles among them."""
    found = instance.get("expanded_devices")
    return {
        str(name): {str(key): str(value) for key, value in device.items()}
        for name, device in sorted(found.items() if isinstance(found, dict) else ())
        if isinstance(device, dict) and device.get("type") == "nic"
    }


def nics(instance: Mapping[str, Any], *, is_here: bool) -> tuple[Nic, ...]:
    """Return an instance's interfaces; `is_here`: it runs on this host, where the host's end has a name.

    A network that is managed has the name of its bridge; `parent` names one that is not.
    """
    config, found = config_of(instance), []
    for name, device in devices(instance).items():
        mac = device.get("hwaddr") or str(config.get(f"volatile.{name}.hwaddr") or "")
        interface = device.get("host_name") or str(config.get(f"volatile.{name}.host_name") or "")
        is_up = f"volatile.{name}.host_name" in config
        bridge = device.get("network") or device.get("parent") or ""
        found.append(Nic(mac.lower(), bridge, interface if is_here and is_up else ""))
    return tuple(found)


def discovered(instance: Mapping[str, Any], *, is_here: bool) -> Discovered:
    """Return an instance as one that may be configured: recursion=2 also says which addresses it has now."""
    config, found = config_of(instance), nics(instance, is_here=is_here)
    addresses = dict.fromkeys(
        device[key]
        for device in devices(instance).values()
        for key in ("ipv4.address", "ipv6.address")
        if device.get(key, "none") not in ("", "none", "auto")
    )
    state = instance.get("state")
    networks = state.get("network") if isinstance(state, dict) else None
    for name, network in networks.items() if isinstance(networks, dict) else ():
        listed = network.get("addresses") if name != "lo" and isinstance(network, dict) else None
        for each in listed if isinstance(listed, list) else ():
            if isinstance(each, dict) and each.get("scope") == "global":
                addresses[str(each.get("address"))] = None
    return Discovered(
        name=str(instance["name"]),
        uuid=str(config.get("volatile.uuid") or ""),
        is_running=instance.get("status") in ("Running", "Ready", "Frozen"),
        nics=found,
        addresses=tuple(addresses),
        keys=dict(_labels(config)),
    )


def _labels(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield all labels: vmd refuses those that are too many or too long, and none may be dropped silently before."""
    for name, value in sorted(config.items()):
        key = name.removeprefix(KEYS_PREFIX)
        if key != name and key not in NOT_KEYS and isinstance(value, str):
            yield key, value


@dataclass(frozen=True)
class NetworkRecords:
    """The networks of a server, as far as interfaces depend on them."""

    managed: frozenset[str] = frozenset()
    """Bridges whose DHCP server is LXD's, so that an interface may be given a fixed address."""
    default: tuple[str, Mapping[str, str]] = ("eth0", {})
    """The first interface of the profile `default`, and its device."""


def networks_of(networks: object, profile: Mapping[str, Any]) -> NetworkRecords:
    """Return what the records of all networks and of the profile `default` say."""
    managed = frozenset(
        str(each.get("name"))
        for each in (networks if isinstance(networks, list) else [])
        if isinstance(each, dict) and each.get("managed") and each.get("type") == "bridge"
    )
    own = devices({"expanded_devices": profile.get("devices")})
    return NetworkRecords(managed, next(iter(own.items()), ("eth0", {})))


def made_of(vm: VM, networks: NetworkRecords) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Return configuration and devices of the instance that is made for a VM."""
    spec = domain_spec(vm, "")
    config = {OWNER: vm.uuid, MADE_FROM: vm.key("image")}
    if "memory" in vm.config:
        config["limits.memory"] = f"{spec.memory_kib}KiB"
    if "vcpus" in vm.config:
        config["limits.cpu"] = str(spec.vcpus)
    made: dict[str, dict[str, str]] = {}
    if not spec.nics and networks.default[1]:
        name, device = networks.default
        made[name] = dict(device) | {"hwaddr": vm.mac}
    for n, nic in enumerate(spec.nics):
        bridge = (
            {"network": nic.bridge} if nic.bridge in networks.managed else {"nictype": "bridged", "parent": nic.bridge}
        )
        made[f"eth{n}"] = {"type": "nic", "name": f"eth{n}", "hwaddr": nic.mac, **bridge}
    for name, device in list(made.items())[:1]:
        if device.get("network") in networks.managed:
            made[name] = device | _addresses(vm)
    config[PARTS] = hashlib.sha256(json.dumps([config, made], sort_keys=True).encode()).hexdigest()[:16]
    return config, made


def _addresses(vm: VM) -> dict[str, str]:
    """Return the addresses that LXD's DHCP server is to give: one of each family."""
    return {f"ipv{address.version}.address": str(address) for address in reversed(vm.addresses)}


def check_owner(vm: VM, instance: Mapping[str, Any]) -> None:
    """Raise Refused if the instance of a VM that is to be made from an image is another's."""
    config = config_of(instance)
    if not is_made(vm):
        return
    if config.get(OWNER) != vm.uuid:
        raise Refused(
            f"image: LXD has an instance {vm.name} that was not made for this VM; remove image to use that instance, "
            "or give the VM another name"
        )
    if config.get(MADE_FROM) != vm.key("image"):
        raise Refused(
            f"image: the instance {vm.name} was made from {config.get(MADE_FROM)}; "
            f"`lxc delete {vm.name}` lets it be made from {vm.key('image')}"
        )


def has_run(instance: Mapping[str, Any]) -> bool:
    """Say whether an instance may have anything on its disk that its image does not have."""
    last = str(instance.get("last_used_at") or "")
    return bool(last) and not last.startswith((NEVER_STARTED, "0001-01-01"))


def writes_to_disk(_: Mapping[str, Any]) -> bool:
    """Say whether an instance has a disk that it writes to: each has its root disk."""
    return True
