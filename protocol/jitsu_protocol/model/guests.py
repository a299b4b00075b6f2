"""What makes a running guest another one than is configured now, so that it may not run on.

A guest has its addresses, its MAC address and its place on a bridge from its start, and is found on its hypervisor by
its name. If one of these is configured otherwise, the guest is stopped as what it was started as, and the VM starts as
it is configured now. All other keys wait for the next start, or count at once (docs/reference/changes.md has the
table).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.model.vm_keys import StopMode

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM

_KEYS = {"mac": "MAC address", "nic": "bridge", "name": "name", "hypervisor": "hypervisor", "uuid": "uuid"}
"""Keys that must not differ, and what they are called in a reason."""


def difference(started: VM, configured: VM) -> str:
    """Return how a guest that runs differs from what is configured, in words; "" if it may run on."""
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
    """Return whether what the hypervisor has of a guest is not found by what is configured now."""
    return any(started.config.get(key) != configured.config.get(key) for key in ("name", "hypervisor", "uuid"))


def mode_of_stop(started: VM) -> StopMode:
    """Return how a guest is stopped that is not to come back: what it has in memory would bring its address back."""
    return StopMode.SHUTDOWN if started.stop_mode in (StopMode.SUSPEND, StopMode.PAUSE) else started.stop_mode


def _listed(vm: VM) -> str:
    return " and ".join(str(address) for address in vm.addresses)
