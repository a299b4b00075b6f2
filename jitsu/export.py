"""The VMs of a running suite as the [vm.NAME] sections of a jitsu.toml that, applied, changes nothing."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING

from jitsu.effect import FIELDS, IN_THE_MODEL, default_of
from jitsu_protocol.model.inventory import Inventory
from jitsu_protocol.model.vm import VM, as_text, uuid_for
from jitsu_protocol.model.vm_keys import KEYS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)\.[0-9]+")
_BARE_NAME = re.compile(r"[A-Za-z0-9_-]+")


def vms_in(leaves: Mapping[str, str]) -> tuple[list[VM], dict[str, str]]:
    """Return the VMs that leaves of the tree describe, and why others cannot be used: uuid -> reason."""
    inventory = Inventory()
    changed = inventory.reset(leaves)
    return [change.new for change in changed if change.new is not None], dict(inventory.faults)


def toml(vms: Iterable[VM]) -> str:
    """Return the sections, by name."""
    return "\n".join(_section(vm) for vm in sorted(vms, key=lambda each: each.name))


def _section(vm: VM) -> str:
    name = vm.name if _BARE_NAME.fullmatch(vm.name) else toml_string(vm.name)
    lines = [f"{key} = {_value(values)}" for key, values in keys_of(vm).items()]
    return "\n".join([f"[vm.{name}]", *lines, ""])


def keys_of(vm: VM) -> dict[str, list[str]]:
    """Return the keys that make a VM what it is, beside its name; those with their default are left out."""
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
    for field in FIELDS:
        value = getattr(vm, field)
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


def _value(values: Sequence[str]) -> str:
    texts = [value if _is_bare(value) else toml_string(value) for value in values]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def _is_bare(text: str) -> bool:
    """Say whether a text may stand without quotes, because reading it gives the same text again."""
    if _WHOLE.fullmatch(text):
        return str(int(text)) == text if len(text) < 19 else False
    return text in ("true", "false") or (_DECIMAL.fullmatch(text) is not None and as_text(float(text)) == text)


def toml_string(text: str) -> str:
    """Return a basic string (toml.io/en/v1.0.0, String): as in JSON, but U+007F may not stand there as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
