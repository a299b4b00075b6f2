"""The VMs of a running suite, and the keys that, applied again, change nothing."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from jitsu_protocol.model.effect import FIELDS, IN_THE_MODEL, default_of
from jitsu_protocol.model.inventory import Inventory
from jitsu_protocol.model.vm import VM, as_text, uuid_for
from jitsu_protocol.model.vm_keys import KEYS

if TYPE_CHECKING:
    from collections.abc import Mapping


def vms_in(leaves: Mapping[str, str]) -> tuple[list[VM], dict[str, str]]:
    """Return the VMs that leaves of the tree describe, and why others cannot be used: uuid -> reason."""
    inventory = Inventory()
    changed = inventory.reset(leaves)
    return [change.new for change in changed if change.new is not None], dict(inventory.faults)


def keys_of(vm: VM) -> dict[str, list[str]]:
    """Return the keys that describe a VM, besides its name; keys with their default are left out."""
    found = {"dns": _names_in_order(vm), "ip": list(map(str, vm.addresses))}
    (ttl, _), *_ = Counter(vm.names.values()).most_common(1)
    if as_text(ttl) != KEYS["ttl"].default:
        found["ttl"] = [as_text(ttl)]
    if others := [f"{name} {own}" for name, own in vm.names.items() if own != ttl]:
        found["name_ttl"] = others
    if vm.aliases:
        found["alias"] = list(vm.aliases)
    if vm.uuid != uuid_for(vm.name):
        found["uuid"] = [vm.uuid]
    values_of_fields = dict(vm)
    for field in FIELDS:
        value = values_of_fields[field]
        is_default = value == default_of(field, vm)
        if field == "stop_mode" and "disk" in vm.config:
            is_default = False  # whoever applies this elsewhere gets no other (stop_modes.py)
        if field not in ("uuid", "name") and not is_default:
            found[field] = [_exactly(value)]
    for key, values in vm.config.items():
        if key in KEYS and key not in IN_THE_MODEL:
            found[key] = list(values) if KEYS[key].repeats else list(values[:1])
    return found


def _exactly(value: object) -> str:
    """Return a value as text that gives the same value again; as_text has ten digits only."""
    text = as_text(value)
    return repr(value) if isinstance(value, float) and float(text) != value else text


def _names_in_order(vm: VM) -> list[str]:
    """Return the DNS names, first those that were configured first."""
    configured = [name.lower().removesuffix(".") for name in vm.config.get("dns", ())]
    return [*dict.fromkeys(name for name in configured if name in vm.names), *sorted(vm.names.keys() - set(configured))]
