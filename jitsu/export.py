"""The VMs of a running suite as the [vm.NAME] sections of a jitsu.toml."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from jitsu_protocol.inventory import Inventory
from jitsu_protocol.vm import VM, from_config

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_BARE = re.compile(r"true|false|0|[1-9][0-9]*")
_BARE_NAME = re.compile(r"[A-Za-z0-9_-]+")


def vms_in(leaves: Mapping[str, str]) -> list[VM]:
    """Return the VMs that leaves of the tree describe."""
    inventory = Inventory()
    inventory.begin_reset()
    inventory.take(leaves)
    return [change.new for change in inventory.end_reset() if change.new is not None]


def toml(vms: Iterable[VM]) -> str:
    """Return the sections, by name."""
    return "\n".join(_section(vm) for vm in sorted(vms, key=lambda each: each.name))


def _section(vm: VM) -> str:
    name = vm.name if _BARE_NAME.fullmatch(vm.name) else json.dumps(vm.name)
    keys = {key: list(values) for key, values in vm.config.items() if (key, values) != ("name", (vm.name,))}
    keys |= _changed_since(vm)
    lines = [f"{key} = {_value(values)}" for key, values in keys.items()]
    return "\n".join([f"[vm.{name}]", *lines, ""])


def _changed_since(vm: VM) -> dict[str, list[str]]:
    """Return what defaults, or changes of the tree, have made different from what the VM's own keys say."""
    written = from_config({key: list(values) for key, values in vm.config.items()}, {})
    found = {}
    if set(written.names.values()) != set(vm.names.values()):
        found["ttl"] = [str(min(vm.names.values()))]  # each name may have its own since; one is told for all
    if written.stop_mode is not vm.stop_mode:
        found["stop_mode"] = [vm.stop_mode.value]
    if written.response_delay != vm.response_delay:
        found["response_delay"] = [f"{vm.response_delay:g}"]
    return found


def _value(values: list[str]) -> str:
    texts = [value if _BARE.fullmatch(value) else json.dumps(value, ensure_ascii=False) for value in values]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
