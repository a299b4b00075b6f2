"""What is said of a VM before its configuration is committed: `jitsu apply` asks vmd."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import struct
from functools import partial
from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.messages import Check, Checked, Summon
from jitsu_protocol.model.errors import Refused, Unavailable
from jitsu_protocol.model.vm import VM, VM_ROOT, from_config, to_tree
from jitsu_protocol.model.vm_keys import KEYS
from jitsu_vmd.hypervisor import Examined
from jitsu_vmd.hypervisors.libvirt import rules as libvirt_rules
from jitsu_vmd.hypervisors.libxl import rules as libxl_rules
from jitsu_vmd.hypervisors.libxl.backend import Libxl
from jitsu_vmd.hypervisors.shared.rules.unused_keys import MOCK_KEYS
from jitsu_vmd.hypervisors.shared.this_host import SIOCETHTOOL, check_bridges, check_parts, is_absent
from jitsu_vmd.hypervisors.solo5.backend import Solo5
from jitsu_vmd.hypervisors.xapi import rules as xapi_rules
from jitsu_vmd.wires import hypervisors as hypervisors_module
from tests.support.hypervisors import libvirt, raised, running, running_xapi, vm_of
from tests.support.process import running_process
from tests.support.vmd import running_vmd
from tests.support.vms import make_vm
from tests.support.xapi import FakeXapi

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def leaves_of(vm: VM) -> dict[str, str]:
    return {path.removeprefix(f"{VM_ROOT}/{vm.uuid}/"): value for path, value in to_tree(vm).items()}


# --- keys that count for nothing ---


def test_the_keys_of_the_mock_hypervisor_are_those_that_say_so() -> None:
    assert set(MOCK_KEYS) == {key for key, about in KEYS.items() if about.doc.startswith("Mock")}


VALUES = {"guest_type": "pv", "vcpus": "2", "announces": "true", "tap": "true", "boot_failure": "hang"}
VALUES |= {"boot_mac": "02:00:5e:00:53:01", "disk": "/img@vda"}


def vm_with(*keys: str) -> VM:
    return make_vm(**{key: VALUES.get(key, "1") for key in keys})


@pytest.mark.parametrize("key", MOCK_KEYS)
def test_a_key_of_the_mock_is_a_mistake_with_every_other_kind(key: str) -> None:
    said = f"{key}: only guests of the mock hypervisor have this key; remove it"
    vm = vm_with("kernel", key)
    for check in (partial(libvirt_rules.check_keys, is_xen=False), libxl_rules.check_keys, xapi_rules.check_keys):
        assert raised(check, vm) == said


@pytest.mark.parametrize(
    ("keys", "is_xen", "said"),
    [
        (("kernel", "disk", "cmdline", "vcpus", "initrd", "script", "memory", "nic"), False, ""),
        (("kernel", "guest_type"), False, "guest_type: it is for Xen only; remove it"),
        (("kernel", "guest_type"), True, ""),
        (("kernel", "rumprun_config"), True, "rumprun_config: libvirt has no means for it; remove it"),
        (("domain_xml", "nic", "mac", "memory"), False, ""),
        (("domain_xml", "disk"), False, "disk: counts for nothing beside domain_xml; write it into that file"),
        (("nic", "memory"), False, ""),
        (
            ("cmdline",),
            False,
            "cmdline: counts only for a domain that is made of a kernel; www is one that libvirt has, set it there",
        ),
    ],
)
def test_what_libvirt_has_no_means_for(keys: Sequence[str], is_xen: bool, said: str) -> None:
    vm = make_vm(**{key: {"mac": "02:00:5e:00:53:01"}.get(key) or VALUES.get(key, "1") for key in keys})
    assert raised(partial(libvirt_rules.check_keys, is_xen=is_xen), vm) == said


def test_what_xapi_and_libxl_have_no_means_for() -> None:
    assert raised(xapi_rules.check_keys, vm_with("disk")) == "disk: www is a VM that the pool has; set it there"
    assert raised(xapi_rules.check_keys, vm_with("memory", "nic")) == ""
    assert (
        raised(libxl_rules.check_keys, vm_with("kernel", "domain_xml"))
        == "domain_xml: it is for libvirt only; remove it"
    )
    assert raised(libxl_rules.check_keys, vm_with("kernel", "disk", "guest_type", "rumprun_config")) == ""


@pytest.mark.parametrize(
    ("disk", "writes"),
    [
        ("<disk><source file='/a'/></disk>", True),
        ("<disk device='lun'/>", True),
        ("<disk><readonly/></disk>", False),
        ("<disk><transient/></disk>", False),
        ("<disk device='cdrom'/>", False),
        ("", False),
    ],
)
def test_a_disk_that_is_written_to(disk: str, writes: bool) -> None:
    assert libvirt_rules.writes_to_disk(f"<domain><devices>{disk}</devices></domain>") is writes


# --- files and bridges ---


def test_files_and_bridges_that_are_not_there(tmp_path: Path) -> None:
    image = tmp_path / "www.img"
    assert raised(check_parts, make_vm(disk=f"{image}@vda")) == f"disk: there is no file {image}"
    image.touch()
    assert raised(check_parts, make_vm(disk=f"{image}@vda")) == ""
    assert raised(check_parts, make_vm(disk="phy:vg0/www@xvda")) == ""
    said = raised(check_parts, make_vm(nic="nobridge"))
    assert said == "nic: this host has no bridge nobridge; `ip link show type bridge` lists the bridges of this host"
    assert raised(check_parts, make_vm(nic="nobridge", script="/etc/xen/vif-route")) == "", (
        "the script need not know it"
    )


@pytest.mark.parametrize(("driver", "said"), [("virtio_net", "nic: lo is not a bridge; "), ("bridge", ""), ("", "")])
def test_an_interface_that_is_not_a_bridge(monkeypatch: pytest.MonkeyPatch, driver: str, said: str) -> None:
    def ioctl(_: object, request: int, argument: bytes) -> None:
        """Tell the driver of an interface as the kernel does (linux/ethtool.h, struct ethtool_drvinfo)."""
        assert request == SIOCETHTOOL
        name, pointer = struct.unpack("16sP", argument)
        assert name.rstrip(b"\0") == b"lo"
        if not driver:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        ctypes.memmove(pointer + 4, driver.encode() + b"\0", len(driver) + 1)

    monkeypatch.setattr("fcntl.ioctl", ioctl)

    def check(_: VM) -> None:
        check_bridges(["lo"])

    assert raised(check, make_vm()).partition("`")[0] == said


def test_a_file_that_this_user_may_not_see_is_not_taken_for_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_absent(str(tmp_path / "no"))
    (tmp_path / "file").touch()
    assert is_absent(str(tmp_path / "file" / "no"))
    assert not is_absent(str(tmp_path / "file"))

    def denied(_: str) -> None:
        raise PermissionError

    monkeypatch.setattr("os.stat", denied)
    assert not is_absent("/secret/kernel")


# --- vmd's answer ---


async def checked(vmd: object, vm: VM) -> Checked:
    answer: Checked = await vmd.daemon.check(Check(vms={vm.uuid: leaves_of(vm)}))  # type: ignore[attr-defined]
    return answer


async def test_vmd_answers_with_the_mistake_and_with_who_writes_to_a_disk(tmp_path: Path) -> None:
    vm = make_vm()
    async with running_vmd(tmp_path) as vmd:
        vmd.hypervisor.examined["www"] = Examined("nic: this host has no bridge br7", writes_to_disk=True)
        assert await checked(vmd, vm) == Checked(
            refusals={vm.uuid: "nic: this host has no bridge br7"}, writes_to_disk={vm.uuid: True}
        )
        vmd.configure(vm)
        vmd.hypervisor.examined.clear()
        assert await checked(vmd, vm) == Checked(refusals={}, writes_to_disk={vm.uuid: False})


async def test_a_mistake_holds_up_no_start_as_what_is_missing_may_come_yet(tmp_path: Path) -> None:
    vm = make_vm(response_delay="0")
    async with running_vmd(tmp_path, vm) as vmd:
        vmd.hypervisor.examined["www"] = Examined("nic: this host has no bridge br7")
        await vmd.summoned(Summon(vm=vm.uuid))
        assert vmd.hypervisor.calls == [("start", "www")]


async def test_a_hypervisor_that_hangs_or_is_away_delays_an_apply_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hangs(_: object) -> dict[str, Examined]:
        await asyncio.Event().wait()
        return {}

    async def is_away(_: object) -> dict[str, Examined]:
        raise Unavailable("no libvirtd")

    monkeypatch.setattr(hypervisors_module, "EXAMINE_LIMIT_S", 0.01)
    async with running_vmd(tmp_path) as vmd:
        for examine in (hangs, is_away):
            monkeypatch.setattr(vmd.hypervisor, "examine", examine)
            assert await checked(vmd, make_vm()) == Checked(refusals={}, writes_to_disk={})


async def test_a_vm_that_was_refused_for_a_missing_file_starts_once_the_file_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm, kernel = make_vm(response_delay="0"), tmp_path / "kernel"
    async with running_vmd(tmp_path) as vmd:

        def check(_: VM) -> None:
            if not kernel.exists():
                raise Refused("kernel: there is no file")

        monkeypatch.setattr(vmd.hypervisor, "check", check)
        vmd.configure(vm)
        with pytest.raises(Unavailable, match="www: kernel: there is no file"):
            await vmd.summoned(Summon(vm=vm.uuid))
        kernel.touch()
        await vmd.summoned(Summon(vm=vm.uuid))
        assert vmd.hypervisor.calls == [("start", "www")]


# --- each kind ---


async def test_the_mock_examines_vms(tmp_path: Path) -> None:
    from jitsu_vmd.hypervisors.bridge.backend import Bridge
    from jitsu_vmd.hypervisors.loopback.backend import Loopback

    mock = object.__new__(Loopback)
    plain, disk = make_vm(boot_time="3"), make_vm("db", "127.0.1.2", disk="/nowhere@vda")
    reason = "disk: guests of the mock hypervisor have no disk; remove it, or run the VM with libvirt, libxl or solo5"
    assert await mock.examine([plain, disk]) == {
        plain.uuid: Examined(),
        disk.uuid: Examined(reason, writes_to_disk=True),
    }
    async with running_process("vmd", tmp_path, hypervisor__bridge="own") as process:
        own, other = make_vm("a", "10.0.0.1", nic="own"), make_vm("b", "10.0.0.2", nic="nobridge")
        found = await Bridge(process).examine([own, other])
    assert found[own.uuid] == Examined()
    assert found[other.uuid].mistake.startswith("nic: this host has no bridge nobridge; ")


async def test_solo5_never_says_that_a_vm_can_be_shut_down() -> None:
    vm = make_vm(kernel="/x", disk="/img@storage", boot_time="3")
    found = await object.__new__(Solo5).examine([vm])
    assert found == {vm.uuid: Examined("boot_time: only guests of the mock hypervisor have this key; remove it")}


async def test_libxl_examines_vms(tmp_path: Path) -> None:
    image = tmp_path / "www.img"
    image.touch()
    whole, less = make_vm(kernel="/x", disk=f"{image}@xvda"), make_vm("b", "127.0.1.2", kernel="/x", disk="/no@xvda")
    mock = make_vm("c", "127.0.1.3", kernel="/x", boot_time="3")
    assert await object.__new__(Libxl).examine([whole, less, mock]) == {
        whole.uuid: Examined("", writes_to_disk=True),
        less.uuid: Examined("disk: there is no file /no", writes_to_disk=True),
        mock.uuid: Examined("boot_time: only guests of the mock hypervisor have this key; remove it"),
    }


async def test_xapi_examines_vms(tmp_path: Path) -> None:
    with FakeXapi() as xapi:
        disks = {"rw": {"type": "Disk", "mode": "RW"}, "ro": {"type": "Disk", "mode": "RO"}}
        xapi.vbds = disks | {"cd": {"type": "CD", "mode": "RW"}}
        xapi.add("www", VBDs=["cd", "ro", "rw"])
        xapi.add("live", VBDs=["cd", "ro"])
        for _ in range(2):
            xapi.add("twice")
        async with running_xapi(vm_of("xapi"), tmp_path, xapi) as made:
            vms = {name: make_vm(name, f"127.0.1.{n}") for n, name in enumerate(("www", "live", "twice", "no"), 1)}
            found = await made.hypervisor.examine(list(vms.values()))
        assert {name: found[vm.uuid] for name, vm in vms.items()} == {
            "www": Examined("", writes_to_disk=True),
            "live": Examined(),
            "twice": Examined("2 VMs of the pool are called twice (name one of them with the key uuid)"),
            "no": Examined("the pool has no VM no (`xe vm-list` shows the VMs of the pool)"),
        }


@libvirt
async def test_libvirt_examines_domains(tmp_path: Path) -> None:
    xml, image = tmp_path / "own.xml", tmp_path / "www.img"
    disk = "<devices><disk type='file'><source file='/a'/><target dev='vda'/></disk></devices>"
    xml.write_text(f"<domain type='test'><memory>8192</memory><os><type>hvm</type></os>{disk}</domain>")
    image.touch()

    def vm(name: str, **keys: str) -> VM:
        config = {"name": name, "dns": f"{name}.jitsu.test", "ip": "127.88.0.9"} | keys
        return from_config({key: [value] for key, value in config.items()}, {})

    async with running("libvirt test", tmp_path) as made:
        vms = [
            vm("test"),  # libvirt's test driver has it
            vm("nosuch"),
            vm("own", domain_xml=str(xml)),
            vm("made", kernel=__file__, disk=f"{image}@vda"),
            vm("bare", kernel=__file__, nic="nobridge"),
            vm("slow", kernel=__file__, boot_time="3"),
            vm("less", kernel=__file__, disk="/no.img@vda"),
        ]
        found = await made.hypervisor.examine(vms)
    bridge = "nic: this host has no bridge nobridge; `ip link show type bridge` lists the bridges of this host"
    unknown = "test:///default has no domain nosuch (virsh define it, or describe it with kernel or domain_xml)"
    assert {vm.name: found[vm.uuid] for vm in vms} == {
        "test": Examined("", writes_to_disk=True),
        "nosuch": Examined(unknown),
        "own": Examined("", writes_to_disk=True),
        "made": Examined("", writes_to_disk=True),
        "bare": Examined(bridge),
        "slow": Examined("boot_time: only guests of the mock hypervisor have this key; remove it"),
        "less": Examined("disk: there is no file /no.img", writes_to_disk=True),
    }
