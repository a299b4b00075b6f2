"""Which keys of a VM each kind that makes domains refuses, and what a domain is made of."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.model.errors import NotFound, Refused, Unavailable
from jitsu_vmd.hypervisors.libvirt import rules as libvirt
from jitsu_vmd.hypervisors.libxl import rules as libxl
from jitsu_vmd.hypervisors.qemu.rules import keys as qemu
from jitsu_vmd.hypervisors.qemu.rules.launch import LaunchDisk, LaunchNic
from jitsu_vmd.hypervisors.qemu.rules.plan import launch_of, tap_of
from jitsu_vmd.hypervisors.shared.rules.spec import domain_spec
from jitsu_vmd.hypervisors.xapi import rules as xapi
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from collections.abc import Callable

    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.hypervisors.shared.rules.spec import DomainSpec

KERNEL = {"kernel": "/boot/www"}
DISK = {"disk": "/images/www.img@vda"}


def spec(**keys: str) -> DomainSpec:
    return domain_spec(make_vm(**keys), "br0")


def refusal(check: Callable[[VM], None], **keys: str) -> str:
    """Return why a kind refuses a VM with these keys; "" if it does not."""
    try:
        check(make_vm(**keys))
    except Refused as refused:
        return str(refused)
    return ""


def check_qemu(vm: VM) -> None:
    qemu.check_possible(vm, domain_spec(vm, ""))


def check_libvirt(vm: VM) -> None:
    libvirt.check_keys(vm, is_xen=False)


def check_libvirt_xen(vm: VM) -> None:
    libvirt.check_keys(vm, is_xen=True)


@pytest.mark.parametrize(
    ("check", "keys", "names"),
    [
        (xapi.check, {}, ""),
        (xapi.check, {"wait_for_key": "data/status"}, "wait_for_key: "),
        (xapi.check, KERNEL, "kernel and domain_xml: "),
        (xapi.check, {"domain_xml": "/etc/www.xml"}, "kernel and domain_xml: "),
        (xapi.check_keys, {}, ""),
        (xapi.check_keys, {"memory": "64M"}, ""),  # for max_memory
        (xapi.check_keys, DISK, "disk: "),
        (xapi.check_keys, {"guest_type": "pvh"}, "guest_type: "),
        (xapi.check_keys, {"boot_time": "1"}, "boot_time: "),
        (check_libvirt, {}, ""),
        (check_libvirt, DISK, "disk: "),
        (check_libvirt, KERNEL | DISK, ""),
        (check_libvirt, KERNEL | {"guest_type": "pvh"}, "guest_type: "),
        (check_libvirt, {"domain_xml": "/etc/www.xml"}, ""),
        (check_libvirt, {"domain_xml": "/etc/www.xml"} | KERNEL, "kernel: "),
        (check_libvirt_xen, KERNEL | {"guest_type": "pvh"}, ""),
        (check_libvirt_xen, KERNEL | {"rumprun_config": "/etc/www.json"}, "rumprun_config: "),
        (libxl.check_keys, KERNEL | {"rumprun_config": "/etc/www.json"}, ""),
        (libxl.check_keys, {"domain_xml": "/etc/www.xml"}, "domain_xml: "),
        (check_qemu, KERNEL, ""),
        (check_qemu, DISK | {"machine": "q35"}, ""),
        (check_qemu, DISK | {"machine": "microvm"}, "kernel: "),
        (check_qemu, {"machine": "q35"}, "kernel: "),
        (check_qemu, {"kernel": "www.elf"}, "kernel: www.elf must be an absolute path"),
        (check_qemu, KERNEL | {"initrd": "initrd.gz"}, "initrd: initrd.gz must be an absolute path"),
        (check_qemu, KERNEL | {"disk": "www.img@vda"}, "disk: www.img must be an absolute path"),
        (check_qemu, KERNEL | {"disk": "/www.img@,if=none"}, "disk: ',if=none' is not a name for a disk"),
        (check_qemu, KERNEL | {"handover": "xenstore"}, "handover: "),
        (check_qemu, KERNEL | {"script": "/etc/xen/vif-bridge"}, "script: "),
        (qemu.check_unused, KERNEL | {"cmdline": "quiet"}, ""),
        (qemu.check_unused, DISK | {"cmdline": "quiet"}, "cmdline: "),
        (qemu.check_unused, DISK | {"initrd": "/boot/initrd"}, "initrd: "),
        (qemu.check_unused, KERNEL | {"standby": "true"}, "standby: "),
        (qemu.check_unused, KERNEL | {"standby": "true", "stop_mode": "suspend"}, ""),
    ],
)
def test_a_kind_refuses_the_keys_that_it_can_do_nothing_with(
    check: Callable[[VM], None], keys: dict[str, str], names: str
) -> None:
    said = refusal(check, **keys)
    assert said.startswith(names)
    assert bool(said) is bool(names)


def test_of_the_vms_of_a_pool_exactly_one_must_be_meant() -> None:
    xapi.check_one(make_vm(), 1)
    with pytest.raises(NotFound, match="the pool has no VM www"):
        xapi.check_one(make_vm(), 0)
    uuid = "0d0f4f2a-6a69-5473-8175-76302e320009"
    with pytest.raises(NotFound, match=f"with the uuid {uuid}"):
        xapi.check_one(make_vm(uuid=uuid), 0)
    with pytest.raises(Unavailable, match="2 VMs of the pool are called www") as caught:
        xapi.check_one(make_vm(), 2)
    assert "uuid" in caught.value.hint


def test_a_domain_of_a_template_has_its_own_name_and_uuid_and_all_else_from_the_template() -> None:
    made = spec(domain_xml="/etc/www.xml")
    template = "<domain type='kvm'><name>x</name><uuid>1</uuid><memory>5</memory><name>y</name></domain>"
    found = ET.fromstring(libvirt.from_template(made, template))
    assert [(each.tag, each.text) for each in found] == [("name", "www"), ("uuid", made.uuid), ("memory", "5")]
    assert found.get("type") == "kvm"
    for text, why in (("<domain>", "is not valid XML"), ("<network/>", "has <network> where <domain> should be")):
        with pytest.raises(Refused, match=f"^domain_xml: /etc/www.xml {why}"):
            libvirt.from_template(made, text)


@pytest.mark.parametrize(
    ("kind", "source", "expected"),
    [
        ("kvm", "/images/www.qcow2", ("file", {"file": "/images/www.qcow2"}, "virtio", "qcow2")),
        ("qemu", "/dev/vg0/www", ("block", {"dev": "/dev/vg0/www"}, "virtio", "raw")),
        ("xen", "/dev/vg0/www", ("block", {"dev": "/dev/vg0/www"}, "xen", None)),
    ],
)
def test_a_disk_of_a_domain_is_a_file_or_a_device_on_the_bus_of_its_hypervisor(
    kind: libvirt.DomainType, source: str, expected: tuple[object, ...]
) -> None:
    xml = libvirt.domain_xml(spec(**KERNEL, disk=f"{source}@vda", script="/etc/vif"), kind, "pvh")
    disk = ET.fromstring(xml).find("devices/disk")
    assert disk is not None
    source_of, target, driver = (disk.find(tag) for tag in ("source", "target", "driver"))
    assert source_of is not None
    assert target is not None
    image = None if driver is None else driver.get("type")
    assert (disk.get("type"), source_of.attrib, target.get("bus"), image) == expected
    assert target.get("dev") == "vda"
    script = ET.fromstring(xml).find("devices/interface/script")
    assert script is not None
    assert script.get("path") == "/etc/vif"
    os_type = ET.fromstring(xml).findtext("os/type")
    assert os_type == ("xenpvh" if kind == "xen" else "hvm")


@pytest.mark.parametrize("disk", ["/images/www.img", "/images/www.img@", "@vda"])
def test_a_disk_without_a_source_or_a_target_is_refused(disk: str) -> None:
    made = spec(**KERNEL, disk=disk)
    with pytest.raises(Refused, match=r"^disk: .* is not DEVICE-OR-FILE@TARGET"):
        libvirt.domain_xml(made, "qemu")
    with pytest.raises(Refused, match=r"^disk: .* is not DEVICE-OR-FILE@TARGET"):
        libxl.config(made, "pvh")


def test_a_configuration_of_xl_has_what_the_keys_of_the_vm_say() -> None:
    made = spec(
        **KERNEL,
        initrd="/boot/initrd",
        cmdline="quiet",
        memory="64M",
        disk="/dev/vg0/www@xvda",
        mac="02:00:5e:00:53:01",
    )
    lines = libxl.config(made, "pvh").splitlines()
    assert {'kernel = "/boot/www"', 'ramdisk = "/boot/initrd"', 'cmdline = "quiet"', "memory = 64"} <= set(lines)
    assert {'vif = ["mac=02:00:5e:00:53:01,bridge=br0"]', 'disk = ["/dev/vg0/www,raw,xvda,rw"]'} <= set(lines)
    assert 'type = "pvh"' in lines
    with pytest.raises(Refused, match="contains a quote or a line break"):
        libxl.config(spec(**KERNEL, cmdline='say="x"'), "pvh")


def test_the_file_of_a_rumprun_unikernel_is_written_as_one_line_of_json() -> None:
    assert libxl.rumprun('{ "net": [1,\n 2] }') == '{"net":[1,2]}'
    with pytest.raises(Refused, match=r"^rumprun_config: it is not valid JSON"):
        libxl.rumprun("{net}")


def test_a_process_of_qemu_has_a_tap_of_its_own_for_each_interface() -> None:
    vm = make_vm(**KERNEL, **DISK, memory="65K", mac="02:00:5e:00:53:01", stop_mode="suspend")
    launch = launch_of(vm, domain_spec(vm, "br0"), "/run/jitsu", is_kvm=True)
    assert launch.nics == (LaunchNic("02:00:5e:00:53:01", "br0", tap_of("/run/jitsu", vm.uuid, 0)),)
    assert launch.disks == (LaunchDisk("/images/www.img", "raw", False, "vda"),)
    assert (launch.boot.kernel, launch.is_kvm, launch.shares_memory) == ("/boot/www", True, True)
    assert launch.memory_mib == 1, "rounded up: QEMU counts in MiB"
    taps = {tap_of(directory, uuid, n) for directory in ("/run/a", "/run/b") for uuid in ("u", "v") for n in (0, 1)}
    assert len(taps) == 8
    assert {len(tap) for tap in taps} == {12}, "an interface has at most 15 characters"
