"""What of a VM's configuration takes effect, however it is written down, and in what two configurations differ.

The tree may hold the same VM in several ways: a value beside `config/` counts before the one in it, a number may be
written as 0.3 or 0.30. What is compared here is what the services make of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jitsu_protocol.model.vm import MIN_IDLE_S, VM, as_text
from jitsu_protocol.model.vm_keys import KEYS

if TYPE_CHECKING:
    from collections.abc import Mapping

FIELDS = tuple(field for field in VM.model_fields if field not in ("names", "aliases", "addresses", "config"))
"""Of the model, those that are a key of the same name."""
IN_THE_MODEL = frozenset({*FIELDS, "dns", "alias", "ip", "ttl", "name_ttl"})
"""Keys that the model has in fields of its own; the others it keeps as text."""


def effect(vm: VM) -> dict[str, Any]:
    """Return what services see of a VM, by key; keys that have their default are left out."""
    found: dict[str, Any] = {"dns": dict(vm.names), "alias": sorted(vm.aliases), "ip": list(map(str, vm.addresses))}
    values_of_fields = dict(vm)
    for field in FIELDS:
        value = values_of_fields[field]
        if field in ("uuid", "name") or value != default_of(field, vm):
            found[field] = value
    for key, values in vm.config.items():
        if key in KEYS and key not in IN_THE_MODEL:
            found[key] = list(values) if KEYS[key].repeats else list(values[:1])
    return found


def default_of(field: str, vm: VM) -> Any:
    """Return the default of a field of the model."""
    if field == "idle_timeout":
        return max(2.0 * vm.ttl, MIN_IDLE_S)
    return VM.model_fields[field].default


def differences(old: VM, new: VM) -> list[str]:
    """Return in what two configurations of one VM differ, for people: `memory 65536 -> 131072`."""
    before, after = effect(old), effect(new)
    found = _dns_differences(before.pop("dns"), after.pop("dns"))
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            was, will_be = _text(key, before, old), _text(key, after, new)
            found.append(f"{key} {was} -> {will_be}")
    return found


def _dns_differences(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    found = [f"dns +{name}" for name in sorted(after.keys() - before.keys())]
    found += [f"dns -{name}" for name in sorted(before.keys() - after.keys())]
    changed = {name: (before[name], after[name]) for name in sorted(before.keys() & after.keys())}
    if len(set(changed.values())) == 1 and before.keys() == after.keys():
        was, will_be = next(iter(changed.values()))
        return [f"ttl {was} -> {will_be}"] if was != will_be else []
    return found + [f"ttl of {name} {was} -> {will_be}" for name, (was, will_be) in changed.items() if was != will_be]


def _text(key: str, found: Mapping[str, Any], vm: VM) -> str:
    value = found[key] if key in found else default_of(key, vm) if key in FIELDS else KEYS[key].default
    if isinstance(value, list):
        value = ", ".join(value)
    return as_text(value) if value not in ("", None) else "none"
