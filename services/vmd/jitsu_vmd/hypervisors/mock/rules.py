"""Keys of a VM that have no effect with the mock hypervisor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_vmd.hypervisors.shared.rules.unused_keys import BRIDGE_KEYS, refuse_each, refuse_keys_of_other_kinds

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM

_NO_DOMAIN = "the mock hypervisor makes no domain; remove it, or run the VM with libvirt, libxl or solo5"
_NO_INTERFACE = 'guests on loopback have no network interface; remove it, or use hypervisor.kind = "bridge"'
_NOT_OF_MOCK_GUESTS = {
    **dict.fromkeys(("kernel", "initrd", "guest_type", "domain_xml", "rumprun_config", "vcpus", "script"), _NO_DOMAIN),
    "disk": "guests of the mock hypervisor have no disk; remove it, or run the VM with libvirt, libxl or solo5",
    "wait_for_key": "the mock hypervisor has no Xenstore; use wait_for_port",
    "shutdown_limit": "a guest of the mock hypervisor always shuts down, after shutdown_time; remove it",
}


def check_keys_on_loopback(vm: VM) -> None:
    """Raise Refused if a VM has a key that has no effect with guests on loopback."""
    reasons = {**_NOT_OF_MOCK_GUESTS, **dict.fromkeys(("nic", "mac", *BRIDGE_KEYS), _NO_INTERFACE)}
    reasons["cmdline"] = _NO_DOMAIN
    if vm.config.get("handover", ("",))[0] == "xenstore":
        reasons["handover"] = _NO_INTERFACE
    refuse_each(vm, reasons)
    refuse_keys_of_other_kinds(vm)


def check_keys_on_a_bridge(vm: VM, *, is_on_tap: bool) -> None:
    """Raise Refused if a VM has a key that has no effect with guests on a bridge."""
    reasons = dict(_NOT_OF_MOCK_GUESTS)
    if not is_on_tap:
        reasons["cmdline"] = "only a guest on a tap is given arguments; remove it, or set tap = true"
    refuse_each(vm, reasons)
    refuse_keys_of_other_kinds(vm)
