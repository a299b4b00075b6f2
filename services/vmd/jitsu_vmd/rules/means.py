"""Keys of a VM that its hypervisor has no means for: whoever sets them expects something that will not happen."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from jitsu_vmd.rules.domain import is_made

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jitsu_protocol.model.vm import VM

MOCK_KEYS = (
    "port",
    "start_time",
    "boot_time",
    "boot_jitter",
    "shutdown_time",
    "listen_after",
    "announces",
    "tap",
    "boot_mac",
    "boot_failure",
)
XEN_KEYS = ("guest_type", "rumprun_config")
MADE_KEYS = ("initrd", "vcpus", "cmdline", "script", "disk")
"""What a domain is made of. `memory` and `nic` count for other VMs too: for max_memory, and for where a guest is."""


BRIDGE_KEYS = ("listen_after", "announces", "tap", "boot_mac")
"""Of the mock hypervisor, for guests on a bridge only."""
_OF_A_DOMAIN = "the mock hypervisor makes no domain; remove it, or run the VM with libvirt, libxl or solo5"
_WITHOUT_INTERFACE = 'guests on loopback have no network interface; remove it, or use hypervisor.kind = "bridge"'
_NOT_OF_MOCK_GUESTS = {
    **dict.fromkeys(
        ("kernel", "initrd", "guest_type", "domain_xml", "rumprun_config", "vcpus", "script"), _OF_A_DOMAIN
    ),
    "disk": "guests of the mock hypervisor have no disk; remove it, or run the VM with libvirt, libxl or solo5",
    "wait_for_key": "the mock hypervisor has no Xenstore; use wait_for_port",
    "shutdown_limit": "a guest of the mock hypervisor always shuts down, after shutdown_time; remove it",
}
_NOT_OF_SOLO5 = {
    "initrd": "a tender loads nothing but the image that is named by kernel; remove it",
    "script": "a tap of solo5 is joined to its bridge without a script; remove it",
    "domain_xml": "it is for libvirt only; name the image with kernel",
    "rumprun_config": "it is for libxl only; remove it",
    "guest_type": "it is for Xen only; remove it",
    "wait_for_key": "there is no Xenstore with solo5; use wait_for_port or use_synjitsu",
}


def of_loopback(vm: VM) -> str:
    """Return which key counts for nothing with the mock hypervisor whose guests are on loopback, or nothing."""
    kinds = {**_NOT_OF_MOCK_GUESTS, **dict.fromkeys(("nic", "mac", *BRIDGE_KEYS), _WITHOUT_INTERFACE)}
    kinds["cmdline"] = _OF_A_DOMAIN
    if vm.config.get("handover", ("",))[0] == "xenstore":
        kinds["handover"] = _WITHOUT_INTERFACE
    return _first_of(vm, kinds)


def of_the_bridge(vm: VM, *, is_on_tap: bool) -> str:
    """Return which key counts for nothing with the mock hypervisor whose guests are on a bridge, or nothing."""
    kinds = dict(_NOT_OF_MOCK_GUESTS)
    if not is_on_tap:
        kinds["cmdline"] = "only a guest on a tap is given arguments; remove it, or set tap = true"
    return _first_of(vm, kinds)


def never_of_solo5(vm: VM) -> str:
    """Return which key solo5 can do nothing with, or nothing."""
    return _first_of(vm, _NOT_OF_SOLO5)


def of_solo5(vm: VM) -> str:
    """Return which key counts for nothing with solo5, or nothing."""
    return of_the_mock(vm) or _first(vm, ("shutdown_limit",), "a tender cannot be asked to shut down; remove it")


def of_addresses(vm: VM) -> str:
    """Return which address of a VM no client can use, or nothing."""
    for address in vm.addresses:
        if address.is_link_local:
            which = "fd00::1 or 2001:db8::1" if address.version == 6 else "192.168.1.10"
            return (
                f"ip: {address} is a link-local address, which no client can use that finds it in the DNS; "
                f"give the VM one such as {which}"
            )
    return ""


def of_the_mock(vm: VM) -> str:
    """Return what is wrong with a VM that is not of the mock hypervisor, or nothing."""
    return _first(vm, MOCK_KEYS, "only guests of the mock hypervisor have this key; remove it")


def of_libvirt(vm: VM, *, is_xen: bool) -> str:
    """Return which key counts for nothing with libvirt, or nothing."""
    if found := of_the_mock(vm):
        return found
    if not is_made(vm):
        why = f"counts only for a domain that is made of a kernel; {vm.name} is one that libvirt has, set it there"
        return _first(vm, MADE_KEYS, why) or _first(vm, XEN_KEYS, why)
    if vm.key("domain_xml"):
        why = "counts for nothing beside domain_xml; write it into that file"
        return _first(vm, ("kernel", *MADE_KEYS, *XEN_KEYS), why)
    unknown = ("rumprun_config",) if is_xen else XEN_KEYS
    return _first(vm, unknown, "libvirt has no means for it; remove it" if is_xen else "it is for Xen only; remove it")


def of_libxl(vm: VM) -> str:
    """Return which key counts for nothing with libxl, or nothing."""
    return of_the_mock(vm) or _first(vm, ("domain_xml",), "it is for libvirt only; remove it")


def of_xapi(vm: VM) -> str:
    """Return which key counts for nothing with XAPI, or nothing."""
    why = f"{vm.name} is a VM that the pool has; set it there"
    return of_the_mock(vm) or _first(vm, (*MADE_KEYS, *XEN_KEYS), why)


def _first_of(vm: VM, reasons: Mapping[str, str]) -> str:
    return next((f"{key}: {why}" for key, why in reasons.items() if vm.config.get(key)), "")


def _first(vm: VM, keys: tuple[str, ...], why: str) -> str:
    return next((f"{key}: {why}" for key in keys if vm.config.get(key)), "")


def writes_to_disk(xml: str) -> bool:
    """Say whether a domain of libvirt has a disk that it writes to (https://libvirt.org/formatdomain.html)."""
    disks = ET.fromstring(xml).iterfind("devices/disk")
    return any(
        disk.get("device", "disk") in ("disk", "lun")
        and disk.find("readonly") is None
        and disk.find("transient") is None
        for disk in disks
    )
