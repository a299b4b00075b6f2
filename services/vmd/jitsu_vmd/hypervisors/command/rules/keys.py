"""Which keys a VM may have with the kind `command`, and which stop modes its section has commands for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import Refused
from jitsu_protocol.model.vm import nearest
from jitsu_protocol.model.vm_keys import KEYS, StopMode

if TYPE_CHECKING:
    from collections.abc import Collection

    from jitsu_protocol.model.vm import VM

OF_EVERY_VM = frozenset(
    {
        *("dns", "alias", "ip", "name", "uuid", "hypervisor", "host", "ttl", "name_ttl", "stop_mode", "response_delay"),
        *("wait_for_port", "ready", "use_synjitsu", "answer", "handover", "wake_on_traffic", "wake_on_lan"),
        *("max_idle_connection", "idle_timeout", "max_wait", "on_timeout", "summon", "boot_limit", "evict", "priority"),
    }
)
"""Keys that mean the same with every hypervisor."""
HONOURED = OF_EVERY_VM | {"command", "mac", "nic", "memory", "shutdown_limit"}
NEEDS = {
    StopMode.DESTROY: "stop",
    StopMode.SHUTDOWN: "shutdown",
    StopMode.PAUSE: "pause",
    StopMode.SUSPEND: "suspend",
}
"""The command that each stop mode takes."""


def check_keys(vm: VM) -> None:
    """Raise Refused if a VM has a key that has no effect here."""
    for key, values in vm.config.items():
        if key in HONOURED or not values or key not in KEYS:
            continue
        if key == "wait_for_key":
            raise Refused("wait_for_key: there is no Xenstore with commands; use wait_for_port or use_synjitsu")
        raise Refused(f"{key}: no command is given this key; remove it")


def check_section(vm: VM, sections: Collection[str]) -> None:
    """Raise Refused if a VM names no section that there is."""
    name = vm.key("command")
    have = f"this host's jitsu.toml has {', '.join(sorted(sections)[:10])}" if sections else "write one in jitsu.toml"
    if not name:
        raise Refused("command: is required; it names a section [command.NAME]", hint=have)
    if name not in sections:
        raise Refused(f"command: there is no section [command.{name}]{nearest(name, sections)}", hint=have)


def check_stop_mode(vm: VM, section: str, commands: Collection[str]) -> None:
    """Raise Refused if the section has no command for the way in which a VM is to be stopped."""
    needed = NEEDS[vm.stop_mode]
    if needed not in commands:
        can = ", ".join(mode for mode, command in NEEDS.items() if command in commands)
        raise Refused(f"stop_mode: [command.{section}] has no `{needed}`; use {can}, or add that command")
