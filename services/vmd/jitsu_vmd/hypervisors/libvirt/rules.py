"""Domains of libvirt as XML (https://libvirt.org/formatdomain.html): made for VMs, and read."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Literal

from jitsu_protocol.model.errors import Refused
from jitsu_vmd.hypervisors.shared.rules.spec import is_made
from jitsu_vmd.hypervisors.shared.rules.unused_keys import MADE_KEYS, XEN_KEYS, refuse_keys, refuse_mock_keys

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM
    from jitsu_protocol.model.vm_keys import GuestType
    from jitsu_vmd.hypervisors.shared.rules.spec import DomainSpec

METADATA = "urn:jitsu:vm"
"""The namespace of our part of a domain's `<metadata>`."""
DomainType = Literal["kvm", "qemu", "xen", "test"]

_OS_TYPES = {"pv": "linux", "pvh": "xenpvh", "hvm": "hvm"}
"""What libvirt calls Xen's guests (https://libvirt.org/formatdomain.html#guest-firmware)."""


def check_keys(vm: VM, *, is_xen: bool) -> None:
    """Raise Refused if a VM has a key that has no effect with libvirt."""
    refuse_mock_keys(vm)
    if not is_made(vm):
        why = f"counts only for a domain that is made of a kernel; {vm.name} is one that libvirt has, set it there"
        refuse_keys(vm, (*MADE_KEYS, *XEN_KEYS), why)
    elif vm.key("domain_xml"):
        refuse_keys(
            vm, ("kernel", *MADE_KEYS, *XEN_KEYS), "counts for nothing beside domain_xml; write it into that file"
        )
    elif is_xen:
        refuse_keys(vm, ("rumprun_config",), "libvirt has no means for it; remove it")
    else:
        refuse_keys(vm, XEN_KEYS, "it is for Xen only; remove it")


def domain_xml(spec: DomainSpec, kind: DomainType, guest_type: GuestType = "pv") -> str:
    """Return the XML of a domain; `guest_type` is how Xen boots it. Raises Refused if a key cannot be used."""
    domain = ET.Element("domain", type=kind)
    _identify(domain, spec)
    ET.SubElement(domain, "memory", unit="KiB").text = str(spec.memory_kib)
    ET.SubElement(domain, "vcpu").text = str(spec.vcpus)
    system = ET.SubElement(domain, "os")
    ET.SubElement(system, "type").text = _OS_TYPES[guest_type] if kind == "xen" else "hvm"
    for tag, text in (("kernel", spec.kernel), ("initrd", spec.initrd), ("cmdline", spec.cmdline)):
        if text:
            ET.SubElement(system, tag).text = text
    if kind != "xen":
        ET.SubElement(ET.SubElement(domain, "features"), "acpi")
    for event, outcome in (("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "destroy")):
        ET.SubElement(domain, event).text = outcome
    devices = ET.SubElement(domain, "devices")
    _disks(devices, spec, kind)
    _interfaces(devices, spec, kind)
    ET.SubElement(devices, "console", type="pty")
    if kind in ("kvm", "qemu"):
        ET.SubElement(devices, "controller", type="usb", model="none")
        ET.SubElement(devices, "memballoon", model="none")
    return ET.tostring(domain, encoding="unicode")


def from_template(spec: DomainSpec, template: str) -> str:
    """Return the XML of a domain that a file describes, with the VM's own name and uuid; raises Refused."""
    try:
        domain = ET.fromstring(template)
    except ET.ParseError as error:
        raise Refused(f"domain_xml: {spec.domain_xml} is not valid XML: {error}") from None
    if domain.tag != "domain":
        raise Refused(f"domain_xml: {spec.domain_xml} has <{domain.tag}> where <domain> should be")
    for tag in ("name", "uuid"):
        for each in domain.findall(tag):
            domain.remove(each)
    _identify(domain, spec)
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


def labels(xml: str) -> dict[str, str]:
    """Return the keys in a domain's metadata: the elements below `<vm xmlns="urn:jitsu:vm">`, whoever wrote them.

    Several elements of one name are several values of that key.
    """
    found: dict[str, str] = {}
    for element in ET.fromstring(xml).iterfind(f"metadata/{{{METADATA}}}vm/*"):
        key, text = element.tag.rpartition("}")[2], (element.text or "").strip()
        found[key] = f"{found[key]},{text}" if key in found else text
    return found


def has_agent(xml: str) -> bool:
    """Say whether the agent of a domain's guest is connected."""
    targets = ET.fromstring(xml).iterfind("devices/channel/target")
    return any(each.get("name") == "org.qemu.guest_agent.0" and each.get("state") == "connected" for each in targets)


def fixed_addresses(xml: str) -> list[tuple[str, str]]:
    """Return the MAC address and the address of each host that the DHCP server of a network knows beforehand."""
    hosts = ET.fromstring(xml).iterfind("ip/dhcp/host")
    return [(each.get("mac", "").lower(), each.get("ip", "")) for each in hosts if each.get("mac") and each.get("ip")]


def writes_to_disk(xml: str) -> bool:
    """Say whether a domain has a disk that it writes to."""
    disks = ET.fromstring(xml).iterfind("devices/disk")
    return any(
        disk.get("device", "disk") in ("disk", "lun")
        and disk.find("readonly") is None
        and disk.find("transient") is None
        for disk in disks
    )


def _identify(domain: ET.Element, spec: DomainSpec) -> None:
    for n, (tag, text) in enumerate((("name", spec.name), ("uuid", spec.uuid))):
        element = ET.Element(tag)
        element.text = text
        domain.insert(n, element)


def _disks(devices: ET.Element, spec: DomainSpec, kind: DomainType) -> None:
    for each in spec.disks:
        if not each.source or not each.target:
            raise Refused(
                f"disk: {each.text!r} is not DEVICE-OR-FILE@TARGET; expected something like /images/www.img@vda"
            )
        disk = ET.SubElement(devices, "disk", type="block" if each.is_device else "file", device="disk")
        if kind in ("kvm", "qemu"):
            ET.SubElement(disk, "driver", name="qemu", type=each.format)
        ET.SubElement(disk, "source", {"dev" if each.is_device else "file": each.source})
        bus = "xen" if kind == "xen" else "virtio"
        ET.SubElement(disk, "target", dev=each.target, bus=bus)


def _interfaces(devices: ET.Element, spec: DomainSpec, kind: DomainType) -> None:
    for each in spec.nics:
        nic = ET.SubElement(devices, "interface", type="bridge")
        ET.SubElement(nic, "mac", address=each.mac)
        ET.SubElement(nic, "source", bridge=each.bridge)
        if kind in ("kvm", "qemu"):
            ET.SubElement(nic, "model", type="virtio")
        if each.script:
            ET.SubElement(nic, "script", path=each.script)
