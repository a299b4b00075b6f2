"""What a VM's QEMU process is to be made of."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from jitsu_protocol.model.vm_keys import StopMode
from jitsu_vmd.hypervisors.qemu.rules.launch import Launch, LaunchBoot, LaunchDisk, LaunchNic

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.hypervisors.shared.rules.spec import DomainSpec


def tap_of(directory: str, vm: str, n: int) -> str:
    """Return the name of a tap: at most 15 characters, and another one for each VM and runtime directory."""
    return f"jq{zlib.crc32(f'{directory} {vm}'.encode()):08x}-{n}"[:15]


def nics_of(spec: DomainSpec, directory: str) -> tuple[LaunchNic, ...]:
    """Return the interfaces of a VM that boots now; `directory` is the connection's in the runtime directory."""
    return tuple(LaunchNic(nic.mac, nic.bridge, tap_of(directory, spec.uuid, n)) for n, nic in enumerate(spec.nics))


def launch_of(vm: VM, spec: DomainSpec, directory: str, *, is_kvm: bool, firmware: str = "") -> Launch:
    """Return the process of a VM that boots now; `firmware` is the program of its UEFI firmware."""
    return Launch(
        name=spec.name,
        uuid=spec.uuid,
        machine=vm.value("machine"),
        is_kvm=is_kvm,
        boot=LaunchBoot(spec.kernel, spec.initrd, spec.cmdline, firmware),
        memory_mib=-(-spec.memory_kib // 1024),
        vcpus=spec.vcpus,
        nics=nics_of(spec, directory),
        disks=tuple(LaunchDisk(d.source, d.format, d.is_device, d.target or "") for d in spec.disks),
        shares_memory=vm.stop_mode is StopMode.SUSPEND,
        has_agent=vm.value("guest_agent"),
    )
