"""The kinds of hypervisor, and a connection to one.

`HypervisorKind` is the only list of kinds. The choices of the setting `hypervisor.kind`, its description, the checks of
`jitsu doctor` and `jitsu up`, and the folder that vmd loads (`jitsu_vmd/hypervisors/<folder>/`) all follow from it. To
support another kind, add one member here, and that folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from jitsu_protocol.model.vm_keys import host_name


@dataclass(frozen=True)
class KindTraits:
    """What other processes and the operator's tool have to know about a kind. The defaults fit a real hypervisor."""

    doc: str
    """The sentence about it in the description of `hypervisor.kind`."""
    folder: str = ""
    """Its folder below jitsu_vmd/hypervisors/; if it is empty, the folder has the name of the kind."""
    needs_root_for: str = ""
    """What vmd needs root for; empty if it does not have to be root."""
    is_mock: bool = False
    """Its guests are simulated by a process of ours, which answers on a known port."""
    is_on_loopback: bool = False
    """Its guests have loopback addresses of this host, and no network interface."""
    needs_bridges: bool = True
    """The bridges that VMs name must exist on this host before a guest starts."""
    needs_default_bridge: bool = False
    """`hypervisor.bridge` must exist as well, for VMs that name no bridge."""
    ends_with_suite: bool = False
    """Its guests end together with `jitsu up`, unless the connection names a host process that others run."""
    starts_when_opened: bool = False
    """Opening it may start a process that runs guests, so `jitsu-vmd --check` does not open it."""
    can_shut_down: bool = True
    """It can ask a guest to shut down."""
    has_own_vms: bool = False
    """A VM may exist there already, with disks that no key of the VM names."""


class HypervisorKind(StrEnum):
    """The kinds that `hypervisor.kind` and `hypervisor.connections` may name."""

    about: KindTraits

    def __new__(cls, value: str, about: KindTraits) -> Self:
        """Make a member whose value is the text in jitsu.toml."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.about = about
        return member

    MOCK = (
        "mock",
        KindTraits(
            "mock (the same as loopback): guests on 127.x.y.z, no privileges",
            folder="loopback",
            is_mock=True,
            is_on_loopback=True,
            needs_bridges=False,
            ends_with_suite=True,
            starts_when_opened=True,
        ),
    )
    LOOPBACK = (
        "loopback",
        KindTraits(
            "",
            is_mock=True,
            is_on_loopback=True,
            needs_bridges=False,
            ends_with_suite=True,
            starts_when_opened=True,
        ),
    )
    BRIDGE = (
        "bridge",
        KindTraits(
            "bridge: mock guests in network namespaces on a bridge, needs root",
            needs_root_for="mock guests on a bridge",
            is_mock=True,
            needs_bridges=False,
            ends_with_suite=True,
            starts_when_opened=True,
        ),
    )
    LIBVIRT = ("libvirt", KindTraits("libvirt", has_own_vms=True))
    LIBXL = ("libxl", KindTraits("libxl (on dom0, with xl)", needs_root_for="xl"))
    XAPI = ("xapi", KindTraits("xapi", needs_bridges=False, has_own_vms=True))
    SOLO5 = (
        "solo5",
        KindTraits(
            "solo5: unikernels as processes, needs root",
            needs_root_for="unikernels as processes",
            needs_default_bridge=True,
            ends_with_suite=True,
            starts_when_opened=True,
            can_shut_down=False,
        ),
    )

    @property
    def folder(self) -> str:
        """The folder below jitsu_vmd/hypervisors/ that implements it."""
        return self.about.folder or self.value


KINDS_DOC = "; ".join(kind.about.doc for kind in HypervisorKind if kind.about.doc) + "."
"""The description of `hypervisor.kind`."""


@dataclass(frozen=True)
class HypervisorConnection:
    """A connection of vmd to a hypervisor."""

    name: str
    """The name that VMs give in the key `hypervisor`; empty for the connection of VMs that name none."""
    kind: HypervisorKind
    uri: str = ""
    """Where the hypervisor listens; empty for the usual place of its kind."""

    def __str__(self) -> str:
        """Return `NAME KIND` or `NAME KIND URI`, which `connection` reads."""
        return " ".join(filter(None, (self.name, self.kind, self.uri)))


def connection(text: str) -> HypervisorConnection:
    """Parse `NAME KIND` or `NAME KIND URI`; raises ValueError."""
    parts = text.split()
    kinds = {kind.value: kind for kind in HypervisorKind}
    if len(parts) not in (2, 3) or parts[1] not in kinds:
        raise ValueError(f"{text!r} is neither NAME KIND nor NAME KIND URI, with one of {', '.join(kinds)}")
    return HypervisorConnection(host_name(parts[0]), kinds[parts[1]], *parts[2:])
