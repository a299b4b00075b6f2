"""Keys of a VM that QEMU can do nothing with: a start is refused for some, and others have no effect."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import Refused
from jitsu_protocol.model.vm_keys import HandoverKind, StopMode
from jitsu_vmd.hypervisors.shared.rules.unused_keys import XEN_KEYS, refuse_each, refuse_mock_keys

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.hypervisors.shared.rules.spec import DomainSpec

_IMPOSSIBLE = {
    "script": "a tap of qemu is joined to its bridge without a script; remove it",
    "domain_xml": "it is for libvirt only; use kernel or disk",
    "wait_for_key": "there is no Xenstore with qemu; use wait_for_port or use_synjitsu",
    **dict.fromkeys(XEN_KEYS, "it is for Xen only; remove it"),
}


def check_possible(vm: VM, spec: DomainSpec) -> None:
    """Raise Refused if a VM's keys ask for something that QEMU can never do."""
    refuse_each(vm, _IMPOSSIBLE)
    if vm.handover is not HandoverKind.REPLAY:
        raise Refused("handover: there is no Xenstore with qemu; use replay")
    if vm.key("template"):
        _check_clone(vm)
        return
    is_microvm = vm.value("machine") == "microvm"
    if is_microvm and not spec.kernel:
        raise Refused("kernel: is required with machine = microvm, which has no BIOS to boot a disk; use machine = q35")
    if is_microvm and vm.value("firmware") == "uefi":
        raise Refused("firmware: a microvm has no place for UEFI firmware; use machine = q35, or remove it")
    if not spec.kernel and not spec.disks:
        raise Refused("kernel: a VM needs a kernel, or a disk to boot from; use kernel or disk")
    for key, path in (("kernel", spec.kernel), ("initrd", spec.initrd), *(("disk", d.source) for d in spec.disks)):
        if path and not path.startswith("/"):
            raise Refused(f"{key}: {path} must be an absolute path")
    for disk in spec.disks:
        if disk.target is not None and not re.fullmatch(r"[A-Za-z0-9_-]{1,20}", disk.target):
            raise Refused(f"disk: {disk.target!r} is not a name for a disk; use at most 20 letters, digits, _ and -")


_OF_TEMPLATE = "a clone has that of its template; remove it"
TEMPLATE_KEYS = ("machine", "firmware", "kernel", "initrd", "cmdline", "disk", "vcpus", "guest_agent")


def _check_clone(vm: VM) -> None:
    """Raise Refused if a clone is to be something that clones cannot be."""
    refuse_each(vm, dict.fromkeys(TEMPLATE_KEYS, _OF_TEMPLATE))
    if vm.key("template") == vm.name:
        raise Refused("template: a VM cannot be its own template; name another VM")
    if vm.stop_mode is StopMode.SUSPEND:
        raise Refused("stop_mode: a clone is made from its template at each start; use destroy, shutdown or pause")


def check_unused(vm: VM) -> None:
    """Raise Refused if a VM has a key that has no effect with QEMU."""
    refuse_mock_keys(vm, "qemu")
    if not vm.key("template"):
        refuse_each(vm, {"shared_identity": "counts only with template; remove it"})
    if not vm.key("kernel") and not vm.key("template"):
        why = "counts only beside kernel; set it in the boot loader of the disk, and remove it"
        refuse_each(vm, dict.fromkeys(("initrd", "cmdline"), why))
    if vm.value("standby") and vm.stop_mode is not StopMode.SUSPEND:
        raise Refused("standby: counts only with stop_mode = suspend; use that, or remove it")
