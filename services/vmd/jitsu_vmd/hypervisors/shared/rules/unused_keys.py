"""Keys of a VM that have no effect with its hypervisor: whoever sets one expects something that will not happen.

Each kind has a function of its own in its folder; this file has what they share. They raise Refused with the key, the
reason, and what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jitsu_protocol.model.vm import VM

BRIDGE_KEYS = ("listen_after", "announces", "tap", "boot_mac")
"""Of the mock hypervisor, for guests on a bridge only."""
MOCK_KEYS = (
    "port",
    "start_time",
    "boot_time",
    "boot_jitter",
    "shutdown_time",
    *BRIDGE_KEYS,
    "boot_failure",
)
XEN_KEYS = ("guest_type", "rumprun_config")
KEYS_OF_KINDS = {
    "machine": ("qemu",),
    "standby": ("qemu",),
    "firmware": ("qemu",),
    "guest_agent": ("qemu",),
    "template": ("qemu",),
    "shared_identity": ("qemu",),
    "container": ("docker",),
    "image": ("docker", "lxd"),
    "publish": ("docker",),
}
"""Keys that only some kinds have."""
MADE_KEYS = ("initrd", "vcpus", "cmdline", "script", "disk")
"""What a domain is made of. `memory` and `nic` count for other VMs too: for max_memory, and for where a guest is."""


def refuse_keys(vm: VM, keys: Iterable[str], why: str) -> None:
    """Raise Refused with the first of these keys that a VM has."""
    refuse_each(vm, dict.fromkeys(keys, why))


def refuse_each(vm: VM, reasons: Mapping[str, str]) -> None:
    """Raise Refused with the first of these keys (key -> why) that a VM has."""
    for key, why in reasons.items():
        if vm.config.get(key):
            raise Refused(f"{key}: {why}")


def refuse_mock_keys(vm: VM, kind: str = "") -> None:
    """Raise Refused if a VM that is not of the mock hypervisor has a key for mock guests, or one of another kind."""
    refuse_keys(vm, MOCK_KEYS, "only guests of the mock hypervisor have this key; remove it")
    refuse_keys_of_other_kinds(vm, kind)


def refuse_keys_of_other_kinds(vm: VM, kind: str = "") -> None:
    """Raise Refused if a VM has a key that only other kinds have; `kind` is the folder of its own."""
    for key, kinds in KEYS_OF_KINDS.items():
        if kind not in kinds:
            refuse_keys(vm, (key,), f"it is for {' and '.join(kinds)} only; remove it")
