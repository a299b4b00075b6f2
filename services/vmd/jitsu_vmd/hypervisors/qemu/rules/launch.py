"""What a QEMU process is made of, as typed values, and as the JSON that stands beside a guest and in its save.

A suspended guest is restored with the launch that it was saved with, whatever its configuration says by then: QEMU
restores a guest only into the machine that it was saved from.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class LaunchNic:
    """A network interface."""

    mac: str
    bridge: str
    tap: str
    """What the host's end is called."""


@dataclass(frozen=True)
class LaunchDisk:
    """A disk."""

    path: str
    format: str
    """raw or qcow2."""
    is_device: bool
    serial: str
    """What the guest can tell it by: /dev/disk/by-id/virtio-SERIAL."""


@dataclass(frozen=True)
class LaunchBoot:
    """What it boots: a kernel, or a disk if there is none."""

    kernel: str
    initrd: str
    cmdline: str
    firmware: str = ""
    """The program of its UEFI firmware; "": its BIOS."""


@dataclass(frozen=True)
class MadeFiles:
    """Where the files of a VM are that vmd makes for it."""

    ram: str
    """Its memory, if that is in a file."""
    variables: str
    """The variables of its UEFI firmware, for example what it boots from."""


@dataclass(frozen=True)
class Launch:
    """One QEMU process."""

    name: str
    uuid: str
    machine: str
    """microvm or q35, or a version of q35 (pc-q35-7.2) that a saved guest belongs to."""
    is_kvm: bool
    boot: LaunchBoot
    memory_mib: int
    vcpus: int
    nics: tuple[LaunchNic, ...]
    disks: tuple[LaunchDisk, ...]
    shares_memory: bool
    """Its memory is in a file, so that suspending it writes only the state of its devices."""
    has_agent: bool = False
    """It has a channel for the guest agent."""
    template: str = ""
    """The uuid of the VM that it is a clone of."""

    @property
    def is_microvm(self) -> bool:
        """Whether it is the machine that has no PCI, and boots nothing but a kernel."""
        return self.machine == "microvm"

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


def launch_from_json(found: Mapping[str, Any]) -> Launch:
    """Return what `to_json` has made; raises TypeError, KeyError or ValueError."""
    fields = dict(found)
    nics = tuple(LaunchNic(**nic) for nic in fields.pop("nics"))
    disks = tuple(LaunchDisk(**disk) for disk in fields.pop("disks"))
    if "boot" not in fields:  # as the first version wrote it
        fields["boot"] = {key: fields.pop(key) for key in ("kernel", "initrd", "cmdline")}
    return Launch(nics=nics, disks=disks, boot=LaunchBoot(**fields.pop("boot")), **fields)
