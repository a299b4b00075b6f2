"""The libvirt domain that is made for a VM (https://libvirt.org/formatdomain.html)."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.rules.image import GuestType

DomainType = Literal["kvm", "qemu", "xen", "test"]

_OS_TYPES = {"pv": "linux", "pvh": "xenpvh", "hvm": "hvm"}
"""What libvirt calls Xen's guests (https://libvirt.org/formatdomain.html#guest-firmware)."""


class DomainFault(ValueError):
    """The domain cannot be described; says which key is wrong."""


def is_made(vm: VM) -> bool:
    """Say whether a VM's domain is made for it; else it is one that the hypervisor has already."""
    return "kernel" in vm.config or "domain_xml" in vm.config


def domain_xml(vm: VM, kind: DomainType, bridge: str, template: str = "", guest_type: GuestType = "pv") -> str:
    """Return the domain's XML.

    `bridge` is that of an interface without one of its own; `template` what the file says that `domain_xml` names;
    `guest_type` is how Xen boots it. Raises DomainFault.
    """
    if template:
        return _from_template(vm, template)
    domain = ET.Element("domain", type=kind)
    _identify(domain, vm)
    ET.SubElement(domain, "memory", unit="KiB").text = vm.key("memory")
    ET.SubElement(domain, "vcpu").text = vm.key("vcpus")
    system = ET.SubElement(domain, "os")
    ET.SubElement(system, "type").text = _OS_TYPES[guest_type] if kind == "xen" else "hvm"
    for key in ("kernel", "initrd", "cmdline"):
        if vm.key(key):
            ET.SubElement(system, key).text = vm.key(key)
    if kind != "xen":
        ET.SubElement(ET.SubElement(domain, "features"), "acpi")
    for event, outcome in (("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "destroy")):
        ET.SubElement(domain, event).text = outcome
    devices = ET.SubElement(domain, "devices")
    _disks(devices, vm, kind)
    _interfaces(devices, vm, kind, bridge)
    ET.SubElement(devices, "console", type="pty")
    if kind in ("kvm", "qemu"):
        ET.SubElement(devices, "controller", type="usb", model="none")
        ET.SubElement(devices, "memballoon", model="none")
    return ET.tostring(domain, encoding="unicode")


def nics(xml: str) -> tuple[tuple[str, str, str], ...]:
    """Return the MAC address, bridge and host-side interface of each interface of a domain, "" where it has none.

    libvirt names the host-side interface (`<target dev='vnet3'/>`) only while the domain runs.
    """
    found = []
    for each in ET.fromstring(xml).iterfind("devices/interface"):
        mac, source, target = each.find("mac"), each.find("source"), each.find("target")
        found.append(
            (
                "" if mac is None else mac.get("address", "").lower(),
                "" if source is None else source.get("bridge", ""),
                "" if target is None else target.get("dev", ""),
            )
        )
    return tuple(found)


def reached_at(nics: Sequence[tuple[str, str, str]], mac: str, bridge: str) -> tuple[str, str, str]:
    """Return the MAC address, bridge and host-side interface of the interface at which a VM is reached.

    It is that on the bridge that the VM names (`bridge`), else its first. Where the domain tells no MAC address, or
    there is no domain yet, it has the VM's own by its configuration (`mac`).
    """
    chosen = next((nic for nic in nics if nic[1] == bridge), nics[0] if nics else ("", "", ""))
    elsewhere = bridge and chosen[1] and bridge != chosen[1]
    return chosen[0] or mac, bridge or chosen[1], "" if elsewhere else chosen[2]


def _from_template(vm: VM, template: str) -> str:
    try:
        domain = ET.fromstring(template)
    except ET.ParseError as error:
        raise DomainFault(f"domain_xml: {vm.key('domain_xml')} is not valid XML: {error}") from None
    if domain.tag != "domain":
        raise DomainFault(f"domain_xml: {vm.key('domain_xml')} has <{domain.tag}> where <domain> should be")
    for tag in ("name", "uuid"):
        for each in domain.findall(tag):
            domain.remove(each)
    _identify(domain, vm)
    return ET.tostring(domain, encoding="unicode")


def _identify(domain: ET.Element, vm: VM) -> None:
    for n, (tag, text) in enumerate((("name", vm.name), ("uuid", vm.uuid))):
        element = ET.Element(tag)
        element.text = text
        domain.insert(n, element)


def _disks(devices: ET.Element, vm: VM, kind: DomainType) -> None:
    for text in vm.config.get("disk", ()):
        source, at, target = text.rpartition("@")
        if not at or not source or not target:
            raise DomainFault(
                f"disk: {text!r} is not DEVICE-OR-FILE@TARGET; expected something like /images/www.img@vda"
            )
        is_device = source.startswith("/dev/")
        disk = ET.SubElement(devices, "disk", type="block" if is_device else "file", device="disk")
        if kind in ("kvm", "qemu"):
            ET.SubElement(disk, "driver", name="qemu", type="qcow2" if source.endswith(".qcow2") else "raw")
        ET.SubElement(disk, "source", {"dev" if is_device else "file": source})
        bus = "xen" if kind == "xen" else "virtio"
        ET.SubElement(disk, "target", dev=target, bus=bus)


def _interfaces(devices: ET.Element, vm: VM, kind: DomainType, bridge: str) -> None:
    scripts = vm.config.get("script", ())
    for n, name in enumerate(vm.config.get("nic", (bridge,) if bridge else ())):
        nic = ET.SubElement(devices, "interface", type="bridge")
        ET.SubElement(nic, "mac", address=nth_mac(vm.mac, n))
        ET.SubElement(nic, "source", bridge=name)
        if kind in ("kvm", "qemu"):
            ET.SubElement(nic, "model", type="virtio")
        if scripts:
            ET.SubElement(nic, "script", path=scripts[n % len(scripts)])


def nth_mac(mac: str, n: int) -> str:
    """Return the MAC address of the interface n: the first has the VM's, the others follow it."""
    number = int(mac.replace(":", ""), 16)
    return (number & ~0xFF | (number + n) & 0xFF).to_bytes(6, "big").hex(":")
