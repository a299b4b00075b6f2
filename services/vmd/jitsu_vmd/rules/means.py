"""Keys of a VM that its hypervisor has no means for: whoever sets them expects something that will not happen."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from jitsu_vmd.rules.domain import is_made

if TYPE_CHECKING:
    from jitsu_protocol.vm import VM

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
