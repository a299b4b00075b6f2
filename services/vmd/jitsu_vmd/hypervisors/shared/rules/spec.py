"""A VM as a hypervisor makes it: the keys of a VM as typed values. Nothing else reads these keys as text.

DomainSpec    for kinds that make a domain, or a process, from `kernel`, `memory`, `nic`, `disk` and so on
MockSpec      for the mock kinds, whose guests boot and fail as the VM says
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM
    from jitsu_protocol.model.vm_keys import BootFailure, GuestType


@dataclass(frozen=True)
class Disk:
    """A disk of a VM."""

    text: str
    """As it is configured."""
    source: str
    """A file or a device of the host."""
    target: str | None
    """What it is called in the guest, for example `vda`; None if the key says nothing."""

    @property
    def is_device(self) -> bool:
        """Whether it is a device, and not a file."""
        return self.source.startswith("/dev/")

    @property
    def format(self) -> str:
        """The format of its image, as QEMU and Xen call it."""
        return "qcow2" if self.source.endswith(".qcow2") else "raw"


@dataclass(frozen=True)
class NicSpec:
    """A network interface that a VM is to have."""

    mac: str
    bridge: str
    script: str = ""
    """What joins it to its bridge; empty: the hypervisor does."""


@dataclass(frozen=True)
class DomainSpec:
    """What a domain is made of."""

    name: str
    uuid: str
    kernel: str
    initrd: str
    cmdline: str
    memory_kib: int
    vcpus: int
    mac: str
    """Of its first interface."""
    disks: tuple[Disk, ...]
    nics: tuple[NicSpec, ...]
    guest_type: GuestType | None
    """How Xen boots the kernel; None: as the kernel's image says."""
    domain_xml: str
    """A file that describes the domain instead (libvirt)."""
    rumprun_config: str
    """A file for a Rumprun unikernel (libxl)."""


def domain_spec(vm: VM, bridge: str) -> DomainSpec:
    """Return what a VM's domain is made of; `bridge` is that of a VM that names none, "" for no interface."""
    scripts = vm.config.get("script", ())
    bridges = vm.config.get("nic", (bridge,) if bridge else ())
    return DomainSpec(
        name=vm.name,
        uuid=vm.uuid,
        kernel=vm.key("kernel"),
        initrd=vm.key("initrd"),
        cmdline=vm.key("cmdline"),
        memory_kib=vm.value("memory"),
        vcpus=vm.value("vcpus"),
        mac=vm.mac,
        disks=tuple(_disk(text) for text in vm.config.get("disk", ())),
        nics=tuple(
            NicSpec(nth_mac(vm.mac, n), name, scripts[n % len(scripts)] if scripts else "")
            for n, name in enumerate(bridges)
        ),
        guest_type=vm.value("guest_type") if "guest_type" in vm.config else None,
        domain_xml=vm.key("domain_xml"),
        rumprun_config=vm.key("rumprun_config"),
    )


def _disk(text: str) -> Disk:
    source, at, target = text.rpartition("@")
    return Disk(text, source, target) if at else Disk(text, text, None)


def nth_mac(mac: str, n: int) -> str:
    """Return the MAC address of the interface n: the first has the VM's, the others follow it."""
    number = int(mac.replace(":", ""), 16)
    return (number & ~0xFF | (number + n) & 0xFF).to_bytes(6, "big").hex(":")


def is_made(vm: VM) -> bool:
    """Say whether a VM's domain is made for it; else it is one that the hypervisor has already."""
    return "kernel" in vm.config or "domain_xml" in vm.config


@dataclass(frozen=True)
class MockSpec:
    """How a mock guest boots, serves, stops and fails."""

    port: int
    start_time_s: float
    boot_time_s: float
    boot_jitter_s: float
    shutdown_time_s: float
    boot_failure: BootFailure
    listen_after_s: float
    announces: bool
    is_on_tap: bool | None
    """None: on a tap if that is possible."""
    mac: str
    """That the guest itself has: its hypervisor believes it has the VM's."""
    arguments: str


def mock_spec(vm: VM) -> MockSpec:
    """Return how a VM's mock guest is to behave."""
    return MockSpec(
        port=vm.value("port"),
        start_time_s=vm.value("start_time"),
        boot_time_s=vm.value("boot_time"),
        boot_jitter_s=vm.value("boot_jitter"),
        shutdown_time_s=vm.value("shutdown_time"),
        boot_failure=vm.value("boot_failure"),
        listen_after_s=vm.value("listen_after"),
        announces=vm.value("announces"),
        is_on_tap=vm.value("tap") if "tap" in vm.config else None,
        mac=vm.key("boot_mac") or vm.mac,
        arguments=vm.key("cmdline"),
    )
