"""When a running guest differs so much from its VM's new configuration that it has to be stopped.

A guest is given its addresses, its MAC address and its bridge when it starts, and it is found on its hypervisor by its
name. If one of these is configured differently, the guest is stopped under its old configuration, and the VM starts
with the new one. Other keys wait for the next start, or take effect at once; docs/reference/changes.md has the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.model.vm_keys import StopMode

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM

_KEYS = {
    "mac": "MAC address",
    "nic": "bridge",
    "name": "name",
    "container": "container",
    "hypervisor": "hypervisor",
    "uuid": "uuid",
}
"""The keys that must not differ, and their names in a reason."""


def difference(started: VM, configured: VM) -> str:
    """Return how a running guest differs from its configuration, in words; "" if it may go on running."""
    if started is configured:
        return ""
    if set(started.addresses) != set(configured.addresses):
        return f"its guest was started with {_listed(started)}, configured is {_listed(configured)}"
    for key, called in _KEYS.items():
        was, now = started.config.get(key, ()), configured.config.get(key, ())
        if was != now:
            values = [" ".join(value) or "the default" for value in (was, now)]
            return f"its guest was started with another {called}: {values[0]}, configured is {values[1]}"
    return ""


def is_found_elsewhere(started: VM, configured: VM) -> bool:
    """Return whether the new configuration would find another guest on the hypervisor than the one that was started."""
    return any(
        started.config.get(key) != configured.config.get(key) for key in ("name", "container", "hypervisor", "uuid")
    )


def mode_of_stop(started: VM) -> StopMode:
    """Return how to stop a guest for good: one that is resumed from memory would have its old address again."""
    return StopMode.SHUTDOWN if started.stop_mode in (StopMode.SUSPEND, StopMode.PAUSE) else started.stop_mode


def _listed(vm: VM) -> str:
    return " and ".join(str(address) for address in vm.addresses)
