"""Every key of a VM with every kind of hypervisor: a key that has no effect there is refused with its name, the reason,
and what to do (`jitsu apply` puts the VM's name before it)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from jitsu_protocol.model.vm import InvalidVm
from jitsu_protocol.model.vm_keys import KEYS
from jitsu_vmd.hypervisor import Examined
from jitsu_vmd.hypervisors.command.rules import keys as command_keys
from jitsu_vmd.hypervisors.docker.rules import keys as docker_keys
from jitsu_vmd.hypervisors.libvirt import rules as libvirt_rules
from jitsu_vmd.hypervisors.libxl import rules as libxl_rules
from jitsu_vmd.hypervisors.lxd.rules import keys as lxd_keys
from jitsu_vmd.hypervisors.mock.rules import check_keys_on_a_bridge, check_keys_on_loopback
from jitsu_vmd.hypervisors.proxmox.rules import keys as proxmox_keys
from jitsu_vmd.hypervisors.qemu.rules import keys as qemu_keys
from jitsu_vmd.hypervisors.shared.rules.spec import domain_spec
from jitsu_vmd.hypervisors.shared.rules.unused_keys import BRIDGE_KEYS, KEYS_OF_KINDS, MOCK_KEYS
from jitsu_vmd.hypervisors.solo5.rules import keys as solo5_keys
from jitsu_vmd.hypervisors.xapi import rules as xapi_rules
from jitsu_vmd.wires.hypervisors import Hypervisors
from tests.support.hypervisors import raised, refusal_of
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from collections.abc import Callable

    from jitsu_protocol.model.vm import VM

VALUES = {
    "ip": "10.0.0.1",
    "name": "web",
    "uuid": "4d47be4e-9cd2-5d84-a20e-7b966138fbe2",
    "guest_type": "pv",
    "machine": "microvm",
    "firmware": "uefi",
    "template": "other",
    "boot_failure": "hang",
    "mac": "02:00:5e:00:53:01",
    "boot_mac": "02:00:5e:00:53:01",
    "disk": "/img@vda",
    "handover": "xenstore",
    "stop_mode": "pause",
    "on_timeout": "servfail",
    "answer": "started",
    "summon": "one",
    "ready": "first-frame",
    "idle_timeout": "900",
    "name_ttl": "www.jitsu.test 5",
    "alias": "other.jitsu.test",
    "wait_for_key": "data/status",
    "publish": "8080:80",
    "container": "web",
    "awake": "08:00-18:00",
    "asleep": "Mon 08:00-18:00",
    "time_zone": "UTC",
    "holidays": "DE",
}
"""A value of each key that does not take "1"."""
MORE_VALUES = {"docker": {"disk": "/srv@/srv"}, "qemu": {"initrd": "/i"}}
"""Where a kind wants another form."""
INSTEAD_OF_KERNEL = {"libvirt": "domain_xml", "libvirt on Xen": "domain_xml", "qemu": "template"}
"""Tested in test_examine.py, and in test_qemu_clone_rules.py."""
DOMAIN = {"kernel", "initrd", "guest_type", "domain_xml", "rumprun_config", "vcpus", "disk", "script"}
MOCK = set(MOCK_KEYS)
ON_A_BRIDGE = set(BRIDGE_KEYS)


def proxmox(vm: VM) -> None:
    proxmox_keys.check_possible(vm)
    proxmox_keys.check_unused(vm)


def solo5(vm: VM) -> None:
    solo5_keys.check_possible(vm)
    solo5_keys.check_unused(vm)


def lxd(vm: VM) -> None:
    lxd_keys.check(vm)
    lxd_keys.check_unused(vm)


def docker(vm: VM) -> None:
    docker_keys.check(vm)
    docker_keys.check_unused(vm)


def qemu(vm: VM) -> None:
    qemu_keys.check_possible(vm, domain_spec(vm, ""))
    qemu_keys.check_unused(vm)


KINDS: dict[str, tuple[Callable[[VM], None], dict[str, str], set[str]]] = {
    "loopback": (
        check_keys_on_loopback,
        {},
        DOMAIN | ON_A_BRIDGE | {"nic", "mac", "cmdline", "wait_for_key", "shutdown_limit", "handover"},
    ),
    "bridge": (
        partial(check_keys_on_a_bridge, is_on_tap=False),
        {},
        DOMAIN | {"cmdline", "wait_for_key", "shutdown_limit"},
    ),
    "bridge, tap": (
        partial(check_keys_on_a_bridge, is_on_tap=True),
        {},
        DOMAIN | {"wait_for_key", "shutdown_limit"},
    ),
    "qemu": (
        qemu,
        {"kernel": "/k"},
        MOCK
        | {"guest_type", "rumprun_config", "domain_xml", "script", "wait_for_key", "handover"}
        | {"standby", "shared_identity"},
    ),
    "qemu, a clone": (
        qemu,
        {"template": "other"},
        MOCK | DOMAIN | set(qemu_keys.TEMPLATE_KEYS) | {"wait_for_key", "handover", "standby"},
    ),
    "qemu, suspended": (
        qemu,
        {"kernel": "/k", "stop_mode": "suspend"},
        MOCK | {"guest_type", "rumprun_config", "domain_xml", "script", "wait_for_key", "handover", "shared_identity"},
    ),
    "solo5": (
        solo5,
        {"kernel": "/k"},
        MOCK | (DOMAIN - {"kernel", "vcpus", "disk"}) | {"wait_for_key", "shutdown_limit"},
    ),
    "libvirt": (
        partial(libvirt_rules.check_keys, is_xen=False),
        {"kernel": "/k"},
        MOCK | {"guest_type", "rumprun_config"},
    ),
    "libvirt, a domain that it has": (
        partial(libvirt_rules.check_keys, is_xen=False),
        {},
        MOCK | (DOMAIN - {"kernel", "domain_xml"}) | {"cmdline"},
    ),
    "libvirt on Xen": (partial(libvirt_rules.check_keys, is_xen=True), {"kernel": "/k"}, MOCK | {"rumprun_config"}),
    "libxl": (libxl_rules.check_keys, {"kernel": "/k"}, MOCK | {"domain_xml"}),
    "command": (command_keys.check_keys, {"command": "www"}, set(KEYS) - command_keys.HONOURED),
    "lxd": (lxd, {"image": "web"}, MOCK | (DOMAIN - {"vcpus"}) | {"cmdline", "wait_for_key"}),
    "lxd, an instance that it has": (lxd, {}, MOCK | DOMAIN | {"cmdline", "wait_for_key"}),
    "docker": (
        docker,
        {"image": "web"},
        MOCK | (DOMAIN - {"vcpus", "disk"}) | {"wait_for_key"},
    ),
    "docker, a container that it has": (docker, {}, MOCK | DOMAIN | {"cmdline", "wait_for_key", "publish"}),
    "proxmox": (proxmox, {}, MOCK | DOMAIN | {"cmdline", "wait_for_key"}),
    "xapi": (xapi_rules.check_keys, {}, MOCK | (DOMAIN - {"kernel", "domain_xml"}) | {"cmdline"}),
}


def vm_with(key: str, more: dict[str, str], kind: str) -> VM:
    """Return a VM that has this key."""
    values = VALUES | MORE_VALUES.get(kind, {})
    for value in [values[key]] if key in values else ["1", "true", "www", "/x"]:
        try:
            return make_vm(
                **(
                    ({"address": value} if key == "ip" else {"name": "www"})
                    | more
                    | ({} if key == "ip" else {key: value})
                )
            )
        except InvalidVm:
            continue
    raise AssertionError(f"no value for {key}")


@pytest.mark.parametrize("kind", KINDS)
def test_each_key_counts_or_is_a_mistake_that_says_why_and_what_to_do(kind: str) -> None:
    check, more, mistaken = KINDS[kind]
    own = kind.partition(",")[0]
    mistaken = mistaken | {key for key, kinds in KEYS_OF_KINDS.items() if own not in kinds}
    assert raised(check, make_vm(**more)) == ""
    for key in KEYS:
        if key in ("dns", *more) or (key == INSTEAD_OF_KERNEL.get(own) and "kernel" in more):
            continue
        said = raised(check, vm_with(key, more, own))
        if key in mistaken:
            assert said.startswith(f"{key}: "), (key, said)
            assert any(word in said for word in ("remove it", "use ", "name ", "set it there", "run the VM")), said
        else:
            assert said == "", (key, said)


@pytest.mark.parametrize("address", ["fe80::1", "169.254.3.4"])
async def test_a_link_local_address_is_a_mistake_with_every_kind(address: str) -> None:
    class Silent:
        """A hypervisor that finds nothing wrong, or cannot be asked."""

        name = "x"

        def __init__(self) -> None:
            self.found: dict[str, Examined] = {}

        async def examine(self, _: object) -> dict[str, Examined]:
            return self.found

    vm, other = make_vm("www", address), make_vm("db", "10.0.0.1")
    made: Any = Silent()
    hypervisors = Hypervisors({"": made}, lambda work: work.close())
    examined = await hypervisors.examine([vm, other])
    assert examined.keys() == {vm.uuid}
    assert examined[vm.uuid].mistake.startswith(f"ip: {address} is a link-local address, which no client can use")
    made.found = {vm.uuid: Examined("nic: this host has no bridge x", writes_to_disk=True), other.uuid: Examined()}
    assert await hypervisors.examine([vm, other]) == made.found, "one mistake at a time"


def test_a_vm_whose_hypervisor_there_is_not_is_named_once() -> None:
    hypervisors = Hypervisors({}, lambda work: work.close())
    said = refusal_of(hypervisors, make_vm(hypervisor="xen"))
    assert said == "hypervisor: xen is not listed in hypervisor.connections"
